//! Reports: one page of HTML that a reviewer can read without this program.
//!
//! Takes a [`Page`] of facts, figures and examples; gives one self-contained document: no scripts, nothing fetched (its
//! own policy forbids both), pictures as SVG. What people wrote is escaped, and blurred until the reader asks for it.
//! Knows nothing of SQL or of where figures come from.

mod figures;
mod html;

use html::{Html, escaped};

/// A whole report.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// What it is about.
    pub title: String,
    /// Names and values at the top: versions, model, when, by whom.
    pub facts: Vec<(String, String)>,
    /// In order.
    pub sections: Vec<Section>,
}

/// A part of a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// Its heading.
    pub heading: String,
    /// How to read it, in a sentence or two; may be empty.
    pub note: String,
    /// What it shows.
    pub body: Body,
}

/// What a section shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Rows of cells under their headings.
    Table {
        /// Headings.
        columns: Vec<String>,
        /// Cells; numbers are aligned to the right.
        rows: Vec<Vec<String>>,
    },
    /// Shares with their intervals, one below the other on a common axis.
    Intervals(Vec<Measured>),
    /// Counts of pairs: what was expected against what was found.
    Matrix(Matrix),
    /// How many texts have which score.
    Histogram(Histogram),
    /// Texts with what was decided about them.
    Examples(Vec<Example>),
}

/// A share that was estimated.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Of what.
    pub name: String,
    /// From 0 to 1; none where there was nothing to measure.
    pub share: Option<f64>,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end of its interval.
    pub high: f64,
    /// What else to say of it: a projection, say.
    pub beside: String,
}

/// Counts of pairs of labels.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matrix {
    /// What the rows are: `golden label`.
    pub down: String,
    /// What the columns are: `label`.
    pub across: String,
    /// Names of the rows.
    pub rows: Vec<String>,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// One line a row.
    pub counts: Vec<Vec<u64>>,
}

/// Counts by score, in bins of equal width from 0 to 1, of several kinds of text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// Name of each kind with its counts, a bin each; all kinds have as many bins.
    pub kinds: Vec<(String, Vec<u64>)>,
}

/// One text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Example {
    /// What happened to it: `allowed → hateful`.
    pub heading: String,
    /// Its row in the user's own table, where that is known.
    pub id: Option<String>,
    /// The text; none where it was erased or never kept.
    pub text: Option<String>,
    /// Names and values behind a click: rationales, scores, rules.
    pub details: Vec<(String, String)>,
}

impl Page {
    /// The document.
    pub fn html(&self) -> String {
        let mut html = Html::new(&self.title);
        html.raw("<h1>");
        html.text(&self.title);
        html.raw("</h1>\n<dl>\n");
        for (name, value) in &self.facts {
            html.raw("<dt>");
            html.text(name);
            html.raw("</dt><dd>");
            html.text(value);
            html.raw("</dd>\n");
        }
        html.raw("</dl>\n");
        if self.has_texts() {
            html.raw(
                "<label class=\"ask\"><input type=\"checkbox\" class=\"show\"> show all texts and rationales \
                 (they can be offensive); a click shows one</label>\n",
            );
        }
        for section in &self.sections {
            section.write(&mut html);
        }
        html.end()
    }

    fn has_texts(&self) -> bool {
        let examples =
            |section: &Section| matches!(&section.body, Body::Examples(e) if !e.is_empty());
        self.sections.iter().any(examples)
    }
}

impl Section {
    fn write(&self, html: &mut Html) {
        html.raw("<section>\n<h2>");
        html.text(&self.heading);
        html.raw("</h2>\n");
        if !self.note.is_empty() {
            html.raw("<p>");
            html.text(&self.note);
            html.raw("</p>\n");
        }
        match &self.body {
            Body::Table { columns, rows } => table(html, columns, rows),
            Body::Intervals(measured) => figures::intervals(html, measured),
            Body::Matrix(matrix) => figures::matrix(html, matrix),
            Body::Histogram(histogram) => figures::histogram(html, histogram),
            Body::Examples(examples) => examples.iter().for_each(|e| example(html, e)),
        }
        html.raw("</section>\n");
    }
}

fn table(html: &mut Html, columns: &[String], rows: &[Vec<String>]) {
    if rows.is_empty() {
        html.raw("<p class=\"none\">none</p>\n");
        return;
    }
    html.raw("<div class=\"wide\"><table>\n<thead><tr>");
    for column in columns {
        html.raw("<th>");
        html.text(column);
        html.raw("</th>");
    }
    html.raw("</tr></thead>\n<tbody>\n");
    for row in rows {
        html.raw("<tr>");
        for cell in row {
            let number = !cell.is_empty() && cell.trim_end_matches('%').parse::<f64>().is_ok();
            html.raw(if number {
                "<td class=\"number\">"
            } else {
                "<td>"
            });
            html.text(cell);
            html.raw("</td>");
        }
        html.raw("</tr>\n");
    }
    html.raw("</tbody></table></div>\n");
}

fn example(html: &mut Html, example: &Example) {
    html.raw("<article>\n<h3>");
    html.text(&example.heading);
    if let Some(id) = &example.id {
        html.raw(" <span class=\"id\">");
        html.text(id);
        html.raw("</span>");
    }
    html.raw("</h3>\n");
    match &example.text {
        // Focus, and with it a click or the tabulator key, takes the blur away.
        Some(text) => {
            let text = escaped(text);
            html.raw(&format!(
                "<blockquote class=\"veiled\" tabindex=\"0\">{text}</blockquote>\n"
            ));
        }
        None => html.raw("<p class=\"none\">the text is not kept</p>\n"),
    }
    if !example.details.is_empty() {
        html.raw("<details><summary>why</summary><dl>\n");
        for (name, value) in &example.details {
            html.raw("<dt>");
            html.text(name);
            html.raw("</dt><dd class=\"veiled\" tabindex=\"0\">");
            html.text(value);
            html.raw("</dd>\n");
        }
        html.raw("</dl></details>\n");
    }
    html.raw("</article>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(body: Body) -> String {
        let section = Section {
            heading: "H".into(),
            note: "how <b>to</b> read".into(),
            body,
        };
        let page = Page {
            title: "a & b".into(),
            facts: vec![("policy".into(), "hate@3 <script>".into())],
            sections: vec![section],
        };
        page.html()
    }

    #[test]
    fn what_people_wrote_is_text() {
        let hostile =
            "</blockquote><script>alert('x')</script><img src=\"https://x\" onerror=1>\u{202e}&";
        let html = page(Body::Examples(vec![Example {
            heading: hostile.into(),
            id: Some(hostile.into()),
            text: Some(hostile.into()),
            details: vec![(hostile.into(), hostile.into())],
        }]));
        assert!(
            !html.contains("<script") && !html.contains("<img"),
            "{html}"
        );
        assert!(html.contains("&lt;/blockquote&gt;&lt;script&gt;alert(&#39;x&#39;)"));
        assert!(html.contains("<title>a &amp; b</title>"));
        // The text stands in a direction of its own, whatever it says.
        assert!(html.contains("unicode-bidi:isolate"));
        assert!(html.contains("default-src 'none'"));
        assert!(html.contains("show all texts"));
    }

    #[test]
    fn every_body_is_drawn() {
        let cases = [
            (
                Body::Table {
                    columns: vec!["label".into(), "n".into()],
                    rows: vec![vec!["bad".into(), "12".into()]],
                },
                "<td class=\"number\">12</td>",
            ),
            (
                Body::Table {
                    columns: vec!["label".into()],
                    rows: vec![],
                },
                "none",
            ),
            (
                Body::Intervals(vec![
                    Measured {
                        name: "recall".into(),
                        share: Some(0.5),
                        low: 0.25,
                        high: 0.75,
                        beside: "12 rows".into(),
                    },
                    Measured {
                        name: "precision".into(),
                        share: None,
                        low: 0.0,
                        high: 1.0,
                        beside: String::new(),
                    },
                ]),
                "50.0%",
            ),
            (
                Body::Matrix(Matrix {
                    down: "golden label".into(),
                    across: "label".into(),
                    rows: vec!["allowed".into(), "bad".into()],
                    columns: vec!["allowed".into(), "bad".into(), "undecided".into()],
                    counts: vec![vec![7, 1, 0], vec![2, 5, 1]],
                }),
                ">7</td>",
            ),
            (
                Body::Histogram(Histogram {
                    kinds: vec![
                        ("allowed".into(), vec![9, 1, 0, 0]),
                        ("bad".into(), vec![0, 1, 2, 4]),
                    ],
                }),
                "<rect",
            ),
            (Body::Histogram(Histogram::default()), "none"),
        ];
        for (body, shown) in cases {
            let html = page(body.clone());
            assert!(html.contains(shown), "{body:?}\n{html}");
            assert!(!html.contains("NaN"), "{html}");
            assert!(!html.contains("show all texts"));
        }
    }
}
