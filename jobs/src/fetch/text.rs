//! Text from outside, made fit to be stored and shown.

use std::borrow::Cow;

/// One line: entities decoded, control characters and runs of white space made single spaces, cut to so many characters.
/// `None` when nothing is left.
pub(crate) fn line(text: &str, max_chars: usize) -> Option<String> {
    let mut line = String::new();
    let mut chars = 0;
    for word in
        decode_entities(text).split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty())
    {
        if chars + usize::from(chars > 0) >= max_chars {
            break;
        }
        if chars > 0 {
            line.push(' ');
            chars += 1;
        }
        for c in word.chars().take(max_chars - chars) {
            line.push(c);
            chars += 1;
        }
    }
    (!line.is_empty()).then_some(line)
}

/// Longer text as it is, but without NUL, which Postgres does not store, and cut to so many bytes.
pub(super) fn body(text: &str, max_bytes: usize) -> String {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "")
}

/// The words of an HTML fragment: tags, comments, scripts and styles left out, entities decoded.
pub(crate) fn plain(html: &str) -> String {
    let mut plain = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let is_markup = rest[1..].starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?'));
        if !is_markup {
            plain.push('<');
            rest = &rest[1..];
            continue;
        }
        let (name, end) = if rest.starts_with("<!--") { ("", "-->") } else { (tag_name(rest), ">") };
        rest = after(rest, end);
        if name.eq_ignore_ascii_case("script") || name.eq_ignore_ascii_case("style") {
            rest = after(after_closing(rest, name), ">");
        }
        if !INLINE.iter().any(|inline| name.eq_ignore_ascii_case(inline)) {
            plain.push(' ');
        }
    }
    plain.push_str(rest);
    decode_entities(&plain).into_owned()
}

/// Tags that do not end a word.
const INLINE: &[&str] =
    &["a", "b", "i", "u", "em", "strong", "span", "font", "code", "mark", "small", "sub", "sup", "s", "wbr"];

fn tag_name(tag: &str) -> &str {
    let name = tag[1..].trim_start_matches('/');
    &name[..name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len())]
}

fn after<'a>(text: &'a str, end: &str) -> &'a str {
    text.find(end).map_or("", |at| &text[at + end.len()..])
}

/// From the closing tag of this name on.
fn after_closing<'a>(text: &'a str, name: &str) -> &'a str {
    let mut rest = text;
    while let Some(at) = rest.find("</") {
        rest = &rest[at..];
        if tag_name(rest).eq_ignore_ascii_case(name) {
            return rest;
        }
        rest = &rest[2..];
    }
    ""
}

/// The entities that job descriptions are full of. Others stay as they are.
const ENTITIES: &[(&str, &str)] = &[
    ("amp", "&"),
    ("lt", "<"),
    ("gt", ">"),
    ("quot", "\""),
    ("apos", "'"),
    ("nbsp", " "),
    ("ndash", "–"),
    ("mdash", "—"),
    ("hellip", "…"),
    ("bull", "•"),
    ("middot", "·"),
    ("lsquo", "‘"),
    ("rsquo", "’"),
    ("ldquo", "“"),
    ("rdquo", "”"),
    ("laquo", "«"),
    ("raquo", "»"),
    ("euro", "€"),
    ("pound", "£"),
    ("copy", "©"),
    ("reg", "®"),
    ("trade", "™"),
];

/// No entity is longer, so that a lone ampersand costs a look at this many bytes.
const LONGEST_ENTITY: usize = 10;

fn decode_entities(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.bytes().take(LONGEST_ENTITY).position(|b| b == b';');
        match end.and_then(|end| Some((entity(rest.get(..end)?)?, end))) {
            Some((character, end)) => {
                decoded.push_str(&character);
                rest = &rest[end + 1..];
            }
            None => decoded.push('&'),
        }
    }
    decoded.push_str(rest);
    Cow::Owned(decoded)
}

fn entity(name: &str) -> Option<Cow<'static, str>> {
    let Some(number) = name.strip_prefix('#') else {
        return ENTITIES.iter().find(|(known, _)| *known == name).map(|(_, text)| Cow::Borrowed(*text));
    };
    let code = match number.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => number.parse(),
    };
    char::from_u32(code.ok()?).map(|c| Cow::Owned(c.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_entities_control_characters_or_runs_of_space() {
        assert_eq!(line("  CI&amp;T\t\n hires\u{a0}\0 now ", 100).as_deref(), Some("CI&T hires now"));
        assert_eq!(line("R&D &unknown; &#8211; &#x1F980; &#0;x &", 100).as_deref(), Some("R&D &unknown; – 🦀 x &"));
        for empty in ["", "  \u{3000} ", "\0", "&nbsp;"] {
            assert_eq!(line(empty, 100), None, "{empty:?}");
        }
    }

    #[test]
    fn a_line_is_cut_by_characters_and_never_within_one() {
        assert_eq!(line("ééé ééé", 5).as_deref(), Some("ééé é"));
        assert_eq!(line("ééé ééé", 4).as_deref(), Some("ééé"));
        assert_eq!(line(&"x".repeat(600), 500).map(|line| line.len()), Some(500));
    }

    #[test]
    fn a_body_is_cut_at_a_character_and_has_no_nul() {
        assert_eq!(body("a\0b", 10), "ab");
        assert_eq!(body("aé", 2), "a");
    }

    #[test]
    fn html_becomes_its_words() {
        let html = "<p>Rust&nbsp;<b>dev</b>eloper</p><ul><li>C++</li><li>a &lt; b</li></ul>\
                    <script>var python = '</b>';</script><!-- java --><STYLE>go</STYLE>1 < 2 end";
        let words = plain(html).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words, "Rust developer C++ a < b 1 < 2 end");
    }

    #[test]
    fn broken_html_ends_and_loses_only_its_tail() {
        assert_eq!(plain("rust <a href='x").trim(), "rust");
        assert_eq!(plain("rust <script>never closed").trim(), "rust");
        assert_eq!(plain("rust <!-- never closed").trim(), "rust");
        assert_eq!(plain("rust <"), "rust <");
    }
}
