// A node for one documentation test: included by the hidden lines of the examples, so that what they show is run.

async fn with_node<F: Future<Output = Result<(), millrace_client::Error>>>(
    example: impl FnOnce(millrace_client::Client, millrace_client::Basin) -> F,
) {
    let dir = tempfile::tempdir().unwrap();
    let settings = millrace_server::config::Settings {
        data_dir: Some(dir.path().to_owned()),
        http_addr: Some(([127, 0, 0, 1], 0).into()),
        store: Some("memory://".into()),
        ..Default::default()
    };
    let config = millrace_server::config::NodeConfig::resolve(settings).unwrap();
    let env = millrace_server::env::Env::system();
    let node = millrace_server::node::Node::start(config, env).await.unwrap();
    let url = format!("http://{}", node.http_addr());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let ended = tokio::spawn(node.run(async { drop(stopped.await) }));
    let client = millrace_client::Client::builder().endpoints([url]).build().unwrap();
    let basin = client.basin("example-basin").unwrap();
    let config = millrace_client::BasinConfig {
        create_stream_on_append: true,
        create_stream_on_read: true,
        ..Default::default()
    };
    basin.create(config).await.unwrap();
    example(client, basin).await.unwrap();
    drop(stop);
    ended.await.unwrap();
}
