//! `Retry-After` (RFC 9110 section 10.2.3): seconds or a date.

use std::time::Duration;

use http::header::{HeaderMap, RETRY_AFTER};

use crate::clock::Timestamp;

/// Nobody is kept waiting longer than this by a header.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the server asks to wait, at most a day; `None` when it does not say so, or not in a readable way.
pub(super) fn read(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    headers.get_all(RETRY_AFTER).iter().find_map(|value| {
        let text = value.to_str().ok()?.trim();
        let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            // Too long for a number is too long to wait.
            text.parse().map_or(LONGEST, Duration::from_secs)
        } else {
            Timestamp::from(httpdate::parse_http_date(text).ok()?).since(now)
        };
        Some(wait.min(LONGEST))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn wait(values: &[&str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        }
        // 1994-11-06 08:49:37 UTC, the date of RFC 9110 section 5.6.7.
        read(&headers, Timestamp::from_millis(784_111_777_000)).map(|wait| wait.as_secs())
    }

    #[test]
    fn seconds_and_dates_are_read_and_capped_at_a_day() {
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&["120"]), Some(120));
        assert_eq!(wait(&[" 0 "]), Some(0));
        assert_eq!(wait(&["86401"]), Some(86_400));
        assert_eq!(wait(&["99999999999999999999999999"]), Some(86_400));
        assert_eq!(wait(&["Sun, 06 Nov 1994 08:50:37 GMT"]), Some(60));
        assert_eq!(wait(&["Sunday, 06-Nov-94 08:50:37 GMT"]), Some(60));
        assert_eq!(wait(&["Sun Nov  6 08:50:37 1994"]), Some(60));
        assert_eq!(wait(&["Sun, 06 Nov 1994 08:00:00 GMT"]), Some(0));
        assert_eq!(wait(&["Fri, 31 Dec 9999 23:59:59 GMT"]), Some(86_400));
        assert_eq!(wait(&["Thu, 01 Jan 1970 00:00:00 GMT"]), Some(0));
    }

    #[test]
    fn what_is_neither_is_passed_over() {
        for text in ["", "soon", "-1", "+5", "1.5", "0x10", "Sun, 32 Nov 1994 08:50:37 GMT"] {
            assert_eq!(wait(&[text]), None, "{text:?}");
        }
        assert_eq!(wait(&["soon", "7"]), Some(7));
    }
}
