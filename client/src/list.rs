//! Lists that page by themselves.

use futures::{Stream, StreamExt, TryStreamExt, stream};

use crate::error::Error;

/// Which names to list. The default lists all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListOptions {
    prefix: String,
    start_after: String,
    page_size: u32,
}

impl ListOptions {
    /// Names that begin like this.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Names behind this one, which need not exist.
    #[must_use]
    pub fn start_after(mut self, name: impl Into<String>) -> Self {
        self.start_after = name.into();
        self
    }

    /// Names that one call asks for; 0 and everything above 1000 mean 1000, the default. Does not bound the list:
    /// whoever wants ten names takes ten.
    #[must_use]
    pub fn page_size(mut self, names: u32) -> Self {
        self.page_size = names;
        self
    }
}

/// What one call asks for.
pub(crate) struct PageRequest {
    pub(crate) prefix: String,
    /// Exclusive.
    pub(crate) start_after: String,
    pub(crate) limit: u32,
}

pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    pub(crate) has_more: bool,
}

/// What a list is in the order of.
pub(crate) trait Named {
    fn name(&self) -> &str;
}

/// Holds one page at a time. A server that says there is more, and gives nothing behind the last name, is not asked
/// again.
pub(crate) fn pages<T, F>(
    options: ListOptions,
    fetch: impl Fn(PageRequest) -> F + Send + 'static,
) -> impl Stream<Item = Result<T, Error>> + Send
where
    T: Named + Send + 'static,
    F: Future<Output = Result<Page<T>, Error>> + Send + 'static,
{
    let state = Some((options, fetch));
    stream::try_unfold(state, async |state| {
        let Some((mut options, fetch)) = state else {
            return Ok::<_, Error>(None);
        };
        let page = fetch(PageRequest {
            prefix: options.prefix.clone(),
            start_after: options.start_after.clone(),
            limit: options.page_size,
        })
        .await?;
        let last = page.items.last().map(|item| item.name().to_owned());
        let next = match last {
            Some(last) if page.has_more => {
                if last <= options.start_after {
                    return Err(Error::corrupt(
                        "a page of a list does not come after the one before",
                    ));
                }
                options.start_after = last;
                Some((options, fetch))
            }
            _ => None,
        };
        Ok(Some((stream::iter(page.items.into_iter().map(Ok)), next)))
    })
    .try_flatten()
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Named for String {
        fn name(&self) -> &str {
            self
        }
    }

    fn names(count: u32) -> Vec<String> {
        (0..count).map(|i| format!("n{i:03}")).collect()
    }

    async fn page(all: Vec<String>, request: PageRequest) -> Result<Page<String>, Error> {
        let mut items: Vec<_> = all.into_iter().filter(|n| *n > request.start_after).collect();
        let has_more = items.len() > request.limit as usize;
        items.truncate(request.limit as usize);
        Ok(Page { items, has_more })
    }

    #[tokio::test]
    async fn all_pages_are_given_once_and_in_order() {
        for size in [1, 3, 10, 11] {
            let options = ListOptions::default().page_size(size);
            let listed: Vec<_> = pages(options, |request| page(names(10), request))
                .try_collect()
                .await
                .unwrap();
            assert_eq!(listed, names(10), "{size}");
        }
    }

    #[tokio::test]
    async fn a_server_that_repeats_a_page_is_found_out() {
        let repeat = async |_| {
            Ok(Page {
                items: names(2),
                has_more: true,
            })
        };
        let listed: Vec<_> = pages(ListOptions::default(), repeat).take(10).collect().await;
        assert!(matches!(listed.last(), Some(Err(Error::Corrupt(_)))));
        assert_eq!(listed.len(), 3);
    }
}
