//! Bytes to text: which encoding a document is in.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// Where an XML declaration ends at the latest.
const DECLARATION_BYTES: usize = 1024;

/// Decodes a document. A byte order mark decides; else the XML declaration, which its author wrote, over the charset of
/// `Content-Type`, which a server often makes up; else UTF-8. Bytes that make no sense become U+FFFD.
pub(super) fn decode<'a>(body: &'a [u8], content_type: Option<&str>) -> Cow<'a, str> {
    let encoding = declared(body).or_else(|| content_type.and_then(charset)).unwrap_or(UTF_8);
    encoding.decode(body).0
}

fn declared(body: &[u8]) -> Option<&'static Encoding> {
    match body {
        [b'<', 0, b'?', 0, ..] => return Some(UTF_16LE),
        [0, b'<', 0, b'?', ..] => return Some(UTF_16BE),
        _ => {}
    }
    let head = String::from_utf8_lossy(&body[..body.len().min(DECLARATION_BYTES)]);
    let declaration = head.trim_start().strip_prefix("<?xml")?.split_once("?>")?.0;
    let quoted = declaration.split_once("encoding")?.1.trim_start().strip_prefix('=')?.trim_start();
    let label = quoted.get(1..)?.split(['"', '\'']).next()?;
    let encoding = Encoding::for_label(label.as_bytes())?;
    // It was read byte by byte, so it cannot be UTF-16.
    Some(if encoding == UTF_16LE || encoding == UTF_16BE { UTF_8 } else { encoding })
}

fn charset(content_type: &str) -> Option<&'static Encoding> {
    let (_, label) = content_type
        .split(';')
        .filter_map(|part| part.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))?;
    Encoding::for_label(label.trim().trim_matches('"').as_bytes())
}

/// The document without its XML declaration, whose encoding no longer is the text's.
pub(super) fn without_declaration(text: &str) -> &str {
    let text = text.trim_start();
    if !text.starts_with("<?xml") {
        return text;
    }
    let mut limit = text.len().min(DECLARATION_BYTES);
    while !text.is_char_boundary(limit) {
        limit -= 1;
    }
    text[..limit].find("?>").map_or(text, |end| &text[end + 2..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_then_declaration_then_header_decide() {
        let cyrillic = b"\xc2\xe0\xea\xe0\xed\xf1\xe8\xff";
        let declared = [b"<?xml version='1.0' encoding='windows-1251'?>".as_slice(), cyrillic].concat();
        assert!(decode(&declared, Some("text/xml; charset=utf-8")).ends_with("Вакансия"));
        assert_eq!(decode(cyrillic, Some("text/xml; charset=\"Windows-1251\"")), "Вакансия");
        assert_eq!(decode("Вакансия".as_bytes(), None), "Вакансия");
        assert_eq!(decode("\u{feff}Вакансия".as_bytes(), Some("text/xml; charset=latin1")), "Вакансия");
        let sixteen: Vec<u8> =
            "<?xml version='1.0' encoding='utf-16'?>é".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(decode(&sixteen, None).ends_with('é'));
        assert!(decode("<?xml version='1.0' encoding='utf-16'?>é".as_bytes(), None).ends_with('é'));
    }

    #[test]
    fn nonsense_is_decoded_to_something() {
        assert_eq!(decode(b"a\xff\xfeb", None), "a\u{fffd}\u{fffd}b");
        assert_eq!(decode(b"", Some("text/xml; charset=klingon")), "");
        assert_eq!(decode(b"<?xml encoding", None), "<?xml encoding");
        assert_eq!(decode(b"<?xml encoding=?>", None), "<?xml encoding=?>");
    }

    #[test]
    fn the_declaration_is_cut_off() {
        assert_eq!(without_declaration(" <?xml version='1.0'?><rss/>"), "<rss/>");
        assert_eq!(without_declaration("<rss/>"), "<rss/>");
        assert_eq!(without_declaration("<?xml never ends"), "<?xml never ends");
    }
}
