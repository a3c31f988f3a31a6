//! `Retry-After`, in both of its forms.

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// How long the server wants to be left alone. A date is measured from the server's own `Date`, so that no clock of ours
/// comes in; without one it says nothing.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    let at = httpdate::parse_http_date(text).ok()?;
    let now = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(at.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(retry_after_text: &str, date: Option<&str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after_text.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        retry_after(&headers)
    }

    #[test]
    fn seconds_and_dates_are_read_and_nonsense_is_nothing() {
        let now = Some("Wed, 04 Dec 2024 20:00:00 GMT");
        assert_eq!(parsed("120", None), Some(Duration::from_secs(120)));
        assert_eq!(parsed("Wed, 04 Dec 2024 20:02:30 GMT", now), Some(Duration::from_secs(150)));
        assert_eq!(parsed("Wed, 04 Dec 2024 19:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(parsed("Wed, 04 Dec 2024 20:02:30 GMT", None), None);
        for nonsense in ["soon", "-5", "1.5", "", "99999999999999999999999999"] {
            assert_eq!(parsed(nonsense, now), None, "{nonsense}");
        }
    }
}
