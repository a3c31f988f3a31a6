//! W3C Trace Context: the trace of the enqueuing system goes on in every attempt of the job.

use rand::{Rng, RngExt};

/// The header's name.
pub const TRACEPARENT: &str = "traceparent";

/// The given trace context as version 00, or a new one where there is none or it is not valid (the specification says to
/// start afresh then, not to refuse).
#[must_use]
pub fn continue_or_start(given: Option<&str>, random: &mut impl Rng) -> String {
    given.and_then(parse).unwrap_or_else(|| start(random))
}

/// `version-traceid-parentid-flags`, lower-case hexadecimal, ids not all zero. A later version may have more parts, of which
/// version 00 is the beginning.
fn parse(header: &str) -> Option<String> {
    let mut parts = header.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |text: &str, digits: usize| is_hex(text, digits) && text.bytes().any(|b| b != b'0');
    let is_valid = is_hex(version, 2)
        && version != "ff"
        && is_id(trace, 32)
        && is_id(parent, 16)
        && is_hex(flags, 2)
        && (version != "00" || parts.next().is_none());
    is_valid.then(|| format!("00-{trace}-{parent}-{flags}"))
}

fn start(random: &mut impl Rng) -> String {
    // Never zero: an id of zeroes is not valid.
    format!("00-{:032x}-{:016x}-01", random.random::<u128>().max(1), random.random::<u64>().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::SmallRng};

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_trace_goes_on_and_anything_else_starts_one() {
        let mut random = SmallRng::seed_from_u64(1);
        assert_eq!(continue_or_start(Some(GOOD), &mut random), GOOD);
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes";
        assert_eq!(continue_or_start(Some(later), &mut random), GOOD);
        let zero_trace = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let zero_parent = "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01";
        let reserved = GOOD.replacen("00", "ff", 1);
        let upper = GOOD.to_uppercase();
        let longer = format!("{GOOD}-more");
        for bad in ["", "garbage", "00-1-2-3", zero_trace, zero_parent, &reserved, &upper, &longer] {
            let new = continue_or_start(Some(bad), &mut random);
            assert!(parse(&new).is_some() && new != bad, "{bad:?} gave {new:?}");
        }
        assert!(parse(&continue_or_start(None, &mut random)).is_some());
    }
}
