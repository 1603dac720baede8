//! A document in the making: its head, its style, and texts that stay texts.

use std::fmt::Write;

/// A document that is written from top to end.
pub(super) struct Html(String);

const STYLE: &str = include_str!("style.css");

impl Html {
    /// The head. The page may load nothing and run nothing, whatever stands in its texts.
    pub(super) fn new(title: &str) -> Html {
        let title = escaped(title);
        Html(format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"referrer\" content=\"no-referrer\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        ))
    }

    /// Markup, as it is.
    pub(super) fn raw(&mut self, markup: &str) {
        self.0.push_str(markup);
    }

    /// Markup made of numbers and of texts that were escaped.
    pub(super) fn put(&mut self, markup: std::fmt::Arguments<'_>) {
        let written = self.0.write_fmt(markup);
        written.expect("bug: a string that cannot be written to");
    }

    /// A text.
    pub(super) fn text(&mut self, text: &str) {
        self.0.push_str(&escaped(text));
    }

    /// The whole document.
    pub(super) fn end(mut self) -> String {
        self.raw("</body>\n</html>\n");
        self.0
    }
}

/// A text as HTML shows it; control characters that a browser would drop or obey are shown as what they are.
pub(super) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '"' => shown.push_str("&quot;"),
            '\'' => shown.push_str("&#39;"),
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}
