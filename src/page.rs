//! Listings in pages.

use crate::domain::Error;

/// The largest page.
const MAX_LIMIT: usize = 1_000;

/// Which part of a listing is wanted: the first page, or what [`Page::next`] says.
///
/// # Examples
/// ```
/// # use anchorhold::{Account, AuditEntry, Error, PageRequest};
/// /// The entries that were not there yet when `seen` was the last one.
/// async fn news(account: &Account, seen: u64) -> Result<Vec<AuditEntry>, Error> {
///     let (mut news, mut wanted) = (Vec::new(), Some(PageRequest::after_sequence(seen, 500)));
///     while let Some(request) = wanted {
///         let page = account.audit(request).await?;
///         news.extend(page.items);
///         wanted = page.next;
///     }
///     Ok(news)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    limit: usize,
    after: Option<Cursor>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cursor {
    Account([u8; 32]),
    Sequence(u64),
}

impl PageRequest {
    /// The first page, with at most `limit` items. The limit is taken as 1 when it is 0, and as 1,000 when it is more.
    #[must_use]
    pub fn first(limit: usize) -> Self {
        Self { limit: limit.clamp(1, MAX_LIMIT), after: None }
    }

    /// The entries of an audit after this sequence, with at most `limit` items (1 to 1,000).
    #[must_use]
    pub fn after_sequence(sequence: u64, limit: usize) -> Self {
        Self { after: Some(Cursor::Sequence(sequence)), ..Self::first(limit) }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn after_account(&self) -> Result<Option<[u8; 32]>, Error> {
        match &self.after {
            None => Ok(None),
            Some(Cursor::Account(locator)) => Ok(Some(*locator)),
            Some(Cursor::Sequence(_)) => Err(Error::InvalidCursor),
        }
    }

    pub(crate) fn after_entry(&self) -> Result<u64, Error> {
        match &self.after {
            None => Ok(0),
            Some(Cursor::Sequence(sequence)) => Ok(*sequence),
            Some(Cursor::Account(_)) => Err(Error::InvalidCursor),
        }
    }

    pub(crate) fn next(&self, after: Cursor) -> Self {
        Self { limit: self.limit, after: Some(after) }
    }
}

/// One page of a listing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Page<T> {
    /// The items of this page.
    pub items: Vec<T>,
    /// What to ask for next; `None` when this was the last page. The page that it leads to may be empty.
    pub next: Option<PageRequest>,
}

impl<T> Page<T> {
    pub(crate) fn new(items: Vec<T>, next: Option<PageRequest>) -> Self {
        Self { items, next }
    }
}
