//! The slot of a Redis Cluster in which a key lives.

/// Slots of a cluster.
pub(crate) const SLOTS: u16 = 16384;

/// CRC16 as Redis Cluster computes it (XMODEM: polynomial 0x1021, from 0).
const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256; a const block has no From")]
        let mut crc = (i as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// The slot of a key: of its first `{…}` that holds something, else of the whole.
pub(crate) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|&byte| byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    tag.unwrap_or(key).iter().fold(0u16, |crc, &byte| {
        let [high, _] = crc.to_be_bytes();
        (crc << 8) ^ TABLE[usize::from(high ^ byte)]
    }) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_that_redis_computes() {
        // CLUSTER KEYSLOT of Redis 7.0.
        let known = [
            (&b"foo"[..], 12182),
            (b"123456789", 12739),
            (b"windrow:{fetch}:jobs", 1745),
            (b"windrow:{scoring}:meta", 12221),
            (b"", 0),
            (b"{}x", 10595),
            (b"{", 4092),
        ];
        for (key, slot) in known {
            assert_eq!(slot_of(key), slot, "{}", String::from_utf8_lossy(key));
        }
        assert_eq!(slot_of(b"windrow:{fetch}:wake"), slot_of(b"fetch"));
        assert_eq!(slot_of(b"a{b}{c}"), slot_of(b"b"));
    }
}
