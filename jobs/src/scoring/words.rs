//! Finding whole words and phrases, in any case and script.

/// A text made ready for searching: lower case, every run of white space one space.
pub(super) struct Words {
    text: String,
}

impl Words {
    pub(super) fn new(text: &str) -> Self {
        Self { text: normal(text) }
    }

    /// Whether the term stands in the text as whole words.
    ///
    /// A letter or digit at the term's edge ends a word there, so that `go` is not in `Django`. A term that ends so is not
    /// followed by `#` or `++` either: `C` is not in `C#` or `C++`.
    pub(super) fn contain(&self, term: &str) -> bool {
        let term = normal(term);
        let (Some(first), Some(last)) = (term.chars().next(), term.chars().next_back()) else { return false };
        self.text.match_indices(&*term).any(|(at, found)| {
            let before = self.text[..at].chars().next_back();
            let after = &self.text[at + found.len()..];
            let starts = !first.is_alphanumeric() || !before.is_some_and(char::is_alphanumeric);
            let ends = !last.is_alphanumeric()
                || !(after.starts_with(char::is_alphanumeric) || after.starts_with('#') || after.starts_with("++"));
            starts && ends
        })
    }
}

fn normal(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !normal.is_empty() {
            normal.push(' ');
        }
        normal.push_str(&word.to_lowercase());
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_are_found_in_any_case_and_script() {
        for (text, term) in [
            ("Senior RUST engineer", "rust"),
            ("(Rust), Go/Python", "go"),
            ("Старший Разработчик", "разработчик"),
            ("ÉLECTRICIEN", "électricien"),
            ("Remote\n  first", "remote first"),
            ("we use C++.", "c++"),
            ("C# and .NET", ".net"),
            ("C# and .NET", "C#"),
            ("C, Go", "c"),
            ("rust", "rust"),
            ("trust and rust", "rust"),
        ] {
            assert!(Words::new(text).contain(term), "{term:?} in {text:?}");
        }
    }

    #[test]
    fn parts_of_words_are_not_found() {
        for (text, term) in [
            ("Django developer", "go"),
            ("trust", "rust"),
            ("rusty", "rust"),
            ("C++ developer", "c"),
            ("C# developer", "c"),
            ("разработчики", "разработчик"),
            ("remote", "remote first"),
            ("rust", ""),
            ("", "rust"),
        ] {
            assert!(!Words::new(text).contain(term), "{term:?} in {text:?}");
        }
    }
}
