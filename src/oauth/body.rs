//! Bodies of requests and responses: bytes or a stream. `Debug` shows lengths, never content.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Mutex;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt as _;
use zeroize::Zeroizing;

use super::http::HttpError;

/// A boxed stream of a request's body, as a client reads it.
type RequestStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;
type ResponseStream = Pin<Box<dyn Stream<Item = Result<Bytes, HttpError>> + Send>>;

/// The body of a request: nothing, bytes, or a stream.
///
/// Bytes can be sent again, when a server answers 401 and the credential was refreshed; a stream can't.
///
/// ```
/// use anchorhold::RequestBody;
/// let body = RequestBody::from("{\"title\":\"hello\"}");
/// assert_eq!(body.len(), Some(17));
/// assert!(body.try_clone().is_some());
/// ```
pub struct RequestBody(Content);

enum Content {
    Bytes(Bytes),
    // Behind a lock that is never contended: makes the body, and with it a request, `Sync` although the stream is not.
    Stream(Mutex<RequestStream>),
}

impl RequestBody {
    /// No body.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Content::Bytes(Bytes::new()))
    }

    /// A body that is read from `stream` while it is sent. A request with one can't be repeated.
    pub fn from_stream(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self(Content::Stream(Mutex::new(Box::pin(stream))))
    }

    /// The same body once more; `None` when it is a stream.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        self.as_bytes().map(|bytes| Self(Content::Bytes(bytes.clone())))
    }

    /// The bytes; `None` when the body is a stream.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.0 {
            Content::Bytes(bytes) => Some(bytes),
            Content::Stream(_) => None,
        }
    }

    /// The length in bytes; `None` when the body is a stream.
    #[must_use]
    pub fn len(&self) -> Option<usize> {
        self.as_bytes().map(Bytes::len)
    }

    /// Whether it is certain that there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// The body as a stream, for a client that sends it; bytes come in one piece.
    #[must_use]
    pub fn into_stream(self) -> Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>> {
        match self.0 {
            Content::Bytes(bytes) if bytes.is_empty() => Box::pin(futures_util::stream::empty()),
            Content::Bytes(bytes) => Box::pin(futures_util::stream::once(std::future::ready(Ok(bytes)))),
            Content::Stream(stream) => stream.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner),
        }
    }

    /// A body that is wiped when its last user is done with it.
    pub(crate) fn wiped(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Content::Bytes(Bytes::from_owner(bytes)))
    }
}

impl Default for RequestBody {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<()> for RequestBody {
    fn from((): ()) -> Self {
        Self::empty()
    }
}

impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> Self {
        Self(Content::Bytes(bytes))
    }
}

impl From<Vec<u8>> for RequestBody {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Content::Bytes(bytes.into()))
    }
}

impl From<String> for RequestBody {
    fn from(text: String) -> Self {
        Self(Content::Bytes(text.into()))
    }
}

impl From<&'static [u8]> for RequestBody {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Content::Bytes(Bytes::from_static(bytes)))
    }
}

impl From<&'static str> for RequestBody {
    fn from(text: &'static str) -> Self {
        Self::from(text.as_bytes())
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.len() {
            Some(len) => write!(f, "RequestBody({len} bytes)"),
            None => f.write_str("RequestBody(stream)"),
        }
    }
}

/// The body of an answer, read piece by piece or as a whole. Dropping it ends the exchange.
pub struct ResponseBody(Mutex<Reading>);

enum Reading {
    Bytes(Bytes),
    Stream(ResponseStream),
    Ended,
}

impl ResponseBody {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self(Mutex::new(Reading::Ended))
    }

    /// A body that is there already.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self(Mutex::new(Reading::Bytes(bytes.into())))
    }

    /// A body that is still coming. After an error nothing more is asked of `stream`.
    pub fn from_stream(stream: impl Stream<Item = Result<Bytes, HttpError>> + Send + 'static) -> Self {
        Self(Mutex::new(Reading::Stream(Box::pin(stream))))
    }

    /// The next piece, of any length; `None` after the last.
    ///
    /// # Errors
    /// [`HttpError`] when the rest does not come: the time is over, there is too much, the connection broke. There is nothing
    /// more to read then.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        let reading = self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let next = match reading {
            Reading::Ended => return Ok(None),
            Reading::Bytes(bytes) => Some(Ok(std::mem::take(bytes))).filter(|first| first.as_ref().is_ok_and(|b| !b.is_empty())),
            Reading::Stream(stream) => stream.next().await,
        };
        if !matches!(reading, Reading::Stream(_)) || !matches!(next, Some(Ok(_))) {
            *reading = Reading::Ended;
        }
        next.transpose()
    }

    /// All that has not been read yet, if it is at most `limit` bytes.
    ///
    /// # Errors
    /// [`HttpError::TooLarge`] when there is more, and those of [`ResponseBody::chunk`].
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes, HttpError> {
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        let mut whole = Vec::new();
        let mut next = first;
        loop {
            if next.len() > limit - whole.len() {
                return Err(HttpError::TooLarge);
            }
            let Some(following) = self.chunk().await? else {
                if whole.is_empty() {
                    return Ok(next);
                }
                whole.extend_from_slice(&next);
                return Ok(whole.into());
            };
            whole.extend_from_slice(&next);
            next = following;
        }
    }

    /// The same into a buffer that is wiped: it grows by moving into a larger one, and the smaller is wiped.
    pub(crate) async fn wiped(mut self, limit: usize) -> Result<Zeroizing<Vec<u8>>, HttpError> {
        let mut whole = Zeroizing::new(Vec::with_capacity(limit.min(4096)));
        while let Some(chunk) = self.chunk().await? {
            if chunk.len() > limit - whole.len() {
                return Err(HttpError::TooLarge);
            }
            if chunk.len() > whole.capacity() - whole.len() {
                let mut larger = Zeroizing::new(Vec::with_capacity((whole.len() + chunk.len()) * 2));
                larger.extend_from_slice(&whole);
                whole = larger;
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reading = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*reading {
            Reading::Bytes(bytes) => write!(f, "ResponseBody({} bytes)", bytes.len()),
            Reading::Stream(_) => f.write_str("ResponseBody(stream)"),
            Reading::Ended => f.write_str("ResponseBody(read)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;
    use futures_util::stream;

    use super::*;

    fn pieces(pieces: &[&'static str]) -> ResponseBody {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
        ResponseBody::from_stream(stream::iter(pieces))
    }

    #[test]
    fn a_body_is_read_whole_up_to_its_limit() {
        block_on(async {
            assert_eq!(pieces(&["ab", "", "cde"]).bytes(5).await.unwrap(), "abcde");
            assert_eq!(pieces(&["ab", "cde"]).bytes(4).await, Err(HttpError::TooLarge));
            assert_eq!(pieces(&["abcde"]).bytes(5).await.unwrap(), "abcde");
            assert_eq!(pieces(&[]).bytes(0).await.unwrap(), "");
            assert_eq!(ResponseBody::from_bytes("abc").bytes(3).await.unwrap(), "abc");
            assert_eq!(ResponseBody::from_bytes("abc").bytes(2).await, Err(HttpError::TooLarge));
            assert_eq!(**pieces(&["ab", "cde"]).wiped(5).await.unwrap(), *b"abcde");
            assert_eq!(pieces(&["ab", "cde"]).wiped(4).await.unwrap_err(), HttpError::TooLarge);
            let long = "x".repeat(20_000);
            assert_eq!(ResponseBody::from_bytes(long.clone()).wiped(20_000).await.unwrap().len(), long.len());
        });
    }

    #[test]
    fn nothing_is_read_after_the_end_or_an_error() {
        block_on(async {
            let mut body = ResponseBody::from_bytes("abc");
            assert_eq!(body.chunk().await.unwrap().unwrap(), "abc");
            assert_eq!(body.chunk().await, Ok(None));
            let broken = [Ok(Bytes::from_static(b"a")), Err(HttpError::Interrupted), Ok(Bytes::from_static(b"b"))];
            let mut body = ResponseBody::from_stream(stream::iter(broken));
            assert_eq!(body.chunk().await.unwrap().unwrap(), "a");
            assert_eq!(body.chunk().await, Err(HttpError::Interrupted));
            assert_eq!(body.chunk().await, Ok(None));
        });
    }

    #[test]
    fn bytes_can_be_repeated_and_streams_not() {
        let body = RequestBody::from(String::from("abc"));
        assert_eq!(body.try_clone().unwrap().as_bytes().unwrap(), "abc");
        assert!(RequestBody::empty().try_clone().unwrap().is_empty());
        let stream = RequestBody::from_stream(stream::iter([Ok(Bytes::from_static(b"abc"))]));
        assert!(stream.try_clone().is_none() && !stream.is_empty());
        let read: Vec<_> = block_on(stream.into_stream().collect());
        assert_eq!(read[0].as_ref().unwrap(), "abc");
        let read: Vec<_> = block_on(body.into_stream().collect());
        assert_eq!(read[0].as_ref().unwrap(), "abc");
    }

    #[test]
    fn messages_are_shared_between_threads() {
        fn sync<T: Send + Sync>(_: &T) {}
        sync(&http::Request::new(RequestBody::empty()));
        sync(&http::Response::new(ResponseBody::empty()));
    }

    #[test]
    fn debug_shows_lengths_only() {
        assert_eq!(format!("{:?}", RequestBody::from("secret")), "RequestBody(6 bytes)");
        assert_eq!(format!("{:?}", ResponseBody::from_bytes("secret")), "ResponseBody(6 bytes)");
        assert_eq!(format!("{:?}", pieces(&["secret"])), "ResponseBody(stream)");
    }
}
