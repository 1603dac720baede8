//! Figures: intervals and histograms as SVG, confusion matrices as shaded tables.

use super::html::{Html, escaped};
use super::{Histogram, Matrix, Measured};

/// Pixels of a figure.
const WIDTH: f64 = 930.0;
/// Pixels for names on its left.
const NAMES: f64 = 200.0;
/// Pixels for figures on its right.
const BESIDE: f64 = 340.0;
/// Pixels of one line of a figure.
const LINE: f64 = 24.0;
/// Pixels of a histogram's bars.
const BARS: f64 = 160.0;
/// Colours of the style sheet.
const KINDS: usize = 4;

/// `12.3%`; more digits where there is little to see.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        p if p != 0.0 && p.abs() < 1.0 => format!("{p:.3}%"),
        p => format!("{p:.1}%"),
    }
}

/// The axis ends at the first of these that all intervals fit below, so that rare flips can be told apart.
fn reach(measured: &[Measured]) -> f64 {
    let most = measured.iter().map(|m| m.high).fold(0.0, f64::max);
    let ends = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5];
    ends.into_iter().find(|end| most <= *end).unwrap_or(1.0)
}

/// Dots and whiskers on a common axis from 0.
pub(super) fn intervals(html: &mut Html, measured: &[Measured]) {
    if measured.is_empty() {
        return html.raw("<p class=\"none\">none</p>\n");
    }
    let (reach, plot) = (reach(measured), WIDTH - NAMES - BESIDE);
    let height = LINE * (measured.len() as f64 + 1.5);
    let x = |share: f64| NAMES + (share / reach).clamp(0.0, 1.0) * plot;
    html.put(format_args!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n"
    ));
    let bottom = LINE * (measured.len() as f64 + 0.2);
    for part in 0..=4 {
        let share = reach * f64::from(part) / 4.0;
        let at = x(share);
        html.put(format_args!(
            "<line class=\"axis\" x1=\"{at:.1}\" y1=\"0\" x2=\"{at:.1}\" y2=\"{bottom:.1}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            bottom + 16.0,
            percent(share)
        ));
    }
    for (line, m) in measured.iter().enumerate() {
        let y = LINE * (line as f64 + 0.5);
        let name = escaped(&m.name);
        html.put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>\n",
            NAMES - 10.0,
            y + 4.0
        ));
        let said = match m.share {
            Some(share) => {
                html.put(format_args!(
                    "<line x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"currentColor\" stroke-width=\"2\"/>\
                     <circle class=\"kind1\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"5\"/>\n",
                    x(m.low),
                    x(m.high),
                    x(share)
                ));
                format!(
                    "{} ({} to {})",
                    percent(share),
                    percent(m.low),
                    percent(m.high)
                )
            }
            None => "nothing to measure".to_owned(),
        };
        let beside = match m.beside.is_empty() {
            true => String::new(),
            false => format!(", {}", escaped(&m.beside)),
        };
        html.put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\">{said}{beside}</text>\n",
            WIDTH - BESIDE + 14.0,
            y + 4.0
        ));
    }
    html.raw("</svg>\n");
}

/// A table whose cells are shaded by their share of the row; what agrees is framed.
pub(super) fn matrix(html: &mut Html, matrix: &Matrix) {
    html.put(format_args!(
        "<div class=\"wide\"><table>\n<thead><tr><th>{} \\ {}</th>",
        escaped(&matrix.down),
        escaped(&matrix.across)
    ));
    for column in &matrix.columns {
        html.put(format_args!("<th>{}</th>", escaped(column)));
    }
    html.raw("</tr></thead>\n<tbody>\n");
    for (name, counts) in matrix.rows.iter().zip(&matrix.counts) {
        let all: u64 = counts.iter().sum();
        html.put(format_args!("<tr><th>{}</th>", escaped(name)));
        for (column, count) in matrix.columns.iter().zip(counts) {
            let share = *count as f64 / all.max(1) as f64;
            let right = if column == name { " right" } else { "" };
            html.put(format_args!(
                "<td class=\"count{right}\" style=\"background:rgb(47 111 176 / {:.2})\">{count}</td>",
                share * 0.6
            ));
        }
        html.raw("</tr>\n");
    }
    html.raw("</tbody></table></div>\n");
}

/// Bars by score, kinds on top of one another.
pub(super) fn histogram(html: &mut Html, histogram: &Histogram) {
    let bins = histogram.kinds.iter().map(|(_, c)| c.len()).max();
    let bins = bins.unwrap_or(0);
    let in_bin = |bin: usize| -> u64 {
        let counts = histogram.kinds.iter().filter_map(|(_, c)| c.get(bin));
        counts.sum()
    };
    let most = (0..bins).map(in_bin).max().unwrap_or(0);
    if most == 0 {
        return html.raw("<p class=\"none\">none has a score</p>\n");
    }
    let (left, height) = (50.0, BARS + 40.0);
    let width = (WIDTH - left - 20.0) / bins as f64;
    html.put(format_args!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <text x=\"{:.1}\" y=\"14\" text-anchor=\"end\">{most}</text>\
         <line class=\"axis\" x1=\"{left}\" y1=\"{BARS}\" x2=\"{WIDTH}\" y2=\"{BARS}\"/>\n",
        left - 6.0
    ));
    for bin in 0..bins {
        let (x, mut y) = (left + width * bin as f64, BARS);
        for (kind, (_, counts)) in histogram.kinds.iter().enumerate() {
            let count = counts.get(bin).copied().unwrap_or(0);
            let tall = BARS * 0.95 * count as f64 / most as f64;
            y -= tall;
            html.put(format_args!(
                "<rect class=\"kind{}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{tall:.1}\"><title>{count}</title></rect>",
                kind % KINDS + 1,
                x + 1.0,
                width - 2.0
            ));
        }
    }
    for part in 0..=4 {
        let share = f64::from(part) / 4.0;
        html.put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{share:.2}</text>",
            left + width * bins as f64 * share,
            BARS + 18.0
        ));
    }
    html.raw("\n</svg>\n<p class=\"legend\">");
    for (kind, (name, counts)) in histogram.kinds.iter().enumerate() {
        html.put(format_args!(
            "<span><i class=\"kind{}\"></i>{} ({})</span>",
            kind % KINDS + 1,
            escaped(name),
            counts.iter().sum::<u64>()
        ));
    }
    html.raw("</p>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_shares_are_told_apart() {
        let of = |high| {
            reach(&[Measured {
                name: String::new(),
                share: Some(0.0),
                low: 0.0,
                high,
                beside: String::new(),
            }])
        };
        assert_eq!((of(0.0), of(0.004), of(0.6)), (0.001, 0.005, 1.0));
        assert_eq!(percent(0.00512), "0.512%");
        assert_eq!(percent(0.0), "0.0%");
        assert_eq!(percent(0.256), "25.6%");
    }
}
