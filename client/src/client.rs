//! The account: its basins.

use std::fmt;
use std::sync::Arc;

use futures::Stream;
use millrace_api::grpc::ListBasinsRequest;
use millrace_api::name::BasinName;

use crate::basin::Basin;
use crate::builder::ClientBuilder;
use crate::call::Shared;
use crate::error::Error;
use crate::info::BasinInfo;
use crate::list::{ListOptions, Page, pages};
use crate::retry::Safety;
use crate::rpc;

/// A connection to a cluster; cheap to clone, and all clones share their connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

impl Client {
    /// Begins a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// A handle on the basin of this name, which need not exist. Asks nobody.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no basin can have the name: 8 to 48 bytes of `a-z`, `0-9` and `-`.
    pub fn basin(&self, name: impl AsRef<str>) -> Result<Basin, Error> {
        let name = BasinName::new(name).map_err(|error| Error::invalid(error.to_string()))?;
        Ok(Basin::new(self.shared.clone(), name))
    }

    /// The basins, in byte order of their names, asked for page by page as they are taken.
    ///
    /// Each page is as of its own time: what is created or deleted meanwhile may be among them or not. Ends after the
    /// first error. Cancel safe: a `next` that is dropped loses nothing.
    pub fn basins(
        &self,
        options: ListOptions,
    ) -> impl Stream<Item = Result<BasinInfo, Error>> + Send + use<> {
        let shared = self.shared.clone();
        pages(options, move |page| {
            let shared = shared.clone();
            async move {
                let request = ListBasinsRequest {
                    prefix: page.prefix,
                    start_after: page.start_after,
                    limit: page.limit,
                };
                let reply = shared
                    .call(None, Safety::Read, shared.request_timeout, |channel| {
                        let request = shared.request(request.clone());
                        async move { rpc::account(channel).list_basins(request).await }
                    })
                    .await?;
                let items = reply.basins.into_iter().map(BasinInfo::try_from);
                Ok(Page {
                    items: items.collect::<Result<_, _>>()?,
                    has_more: reply.has_more,
                })
            }
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}
