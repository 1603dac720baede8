//! Numbers by PostgreSQL's patterns: `FM999,990.00`.
//!
//! Takes a number as decimal digits and a pattern, gives a text. Locale's symbols are those of the C locale.

/// One place of a pattern.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// `9`, or `0` where zeros show.
    Digit(bool),
    Point,
    Group,
    Literal(char),
    /// `S` or `SG`: + or -.
    Sign,
    /// `MI`: - or nothing.
    Minus,
    /// `PL`: + or nothing.
    Plus,
}

#[derive(Debug, Default)]
struct Pattern {
    places: Vec<Place>,
    fill: bool,
    angle: bool,
}

fn parse(text: &str) -> Pattern {
    let mut pattern = Pattern::default();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let two = rest.get(..2).map(str::to_uppercase);
        let (place, length) = match two.as_deref() {
            Some("FM") => {
                pattern.fill = true;
                rest = &rest[2..];
                continue;
            }
            Some("PR") => {
                pattern.angle = true;
                rest = &rest[2..];
                continue;
            }
            Some("MI") => (Place::Minus, 2),
            Some("PL") => (Place::Plus, 2),
            Some("SG") => (Place::Sign, 2),
            _ => match letter {
                '9' => (Place::Digit(false), 1),
                '0' => (Place::Digit(true), 1),
                '.' | 'D' | 'd' => (Place::Point, 1),
                ',' | 'G' | 'g' => (Place::Group, 1),
                'S' | 's' => (Place::Sign, 1),
                'L' | 'l' => (Place::Literal(' '), 1),
                '"' => {
                    let end = rest[1..].find('"').unwrap_or(rest.len() - 1);
                    pattern
                        .places
                        .extend(rest[1..=end].chars().map(Place::Literal));
                    rest = rest.get(end + 2..).unwrap_or_default();
                    continue;
                }
                other => (Place::Literal(other), other.len_utf8()),
            },
        };
        pattern.places.push(place);
        rest = &rest[length..];
    }
    pattern
}

/// The digits before and after the point, rounded half up to so many after it.
fn rounded(digits: &str, after: usize) -> (String, String) {
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let kept: String = part
        .chars()
        .chain(std::iter::repeat('0'))
        .take(after)
        .collect();
    let up = part.as_bytes().get(after).is_some_and(|d| *d >= b'5');
    let mut all: Vec<u8> = whole.bytes().chain(kept.bytes()).collect();
    let mut at = all.len();
    let mut carry = up;
    while carry && at > 0 {
        at -= 1;
        carry = all[at] == b'9';
        all[at] = if carry { b'0' } else { all[at] + 1 };
    }
    if carry {
        all.insert(0, b'1');
    }
    let all = String::from_utf8_lossy(&all).into_owned();
    let (whole, part) = all.split_at(all.len() - after);
    (whole.trim_start_matches('0').to_owned(), part.to_owned())
}

/// The number, given as `-12.5`, as the pattern wants it.
pub(super) fn show(number: &str, pattern: &str) -> String {
    let pattern = parse(pattern);
    let negative = number.starts_with('-');
    let digits = number.trim_start_matches('-');
    let point = pattern.places.iter().position(|p| *p == Place::Point);
    let is_digit = |place: &&Place| matches!(place, Place::Digit(_));
    let (before, after) = match point {
        Some(at) => (
            &pattern.places[..at],
            pattern.places[at..].iter().filter(is_digit).count(),
        ),
        None => (&pattern.places[..], 0),
    };
    let slots = before.iter().filter(is_digit).count();
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let (mut whole, part) = rounded(if plain { digits } else { "0" }, after);
    if whole.is_empty() && point.is_none() {
        whole.push('0');
    }
    let overflow = whole.len() > slots || !plain;
    let body = body(&pattern, overflow, (&whole, &part), slots, negative);
    finish(&pattern, body, negative)
}

fn body(
    pattern: &Pattern,
    overflow: bool,
    (whole, part): (&str, &str),
    slots: usize,
    negative: bool,
) -> String {
    let (mut out, mut slot, mut after, mut begun) = (String::new(), 0, 0, false);
    let blank = |out: &mut String| {
        if !pattern.fill {
            out.push(' ');
        }
    };
    let mut past = false;
    for place in &pattern.places {
        match place {
            Place::Digit(_) if overflow => {
                begun = true;
                out.push('#');
            }
            Place::Digit(zero) if !past => {
                let from = slots - whole.len();
                begun = begun || *zero || slot >= from;
                if slot >= from {
                    out.push_str(&whole[slot - from..=slot - from]);
                } else if begun {
                    out.push('0');
                } else {
                    blank(&mut out);
                }
                slot += 1;
            }
            Place::Digit(zero) => {
                let rest = &part[after..];
                if !pattern.fill || *zero || rest.bytes().any(|d| d != b'0') {
                    out.push_str(&part[after..=after]);
                }
                after += 1;
            }
            Place::Point => {
                past = true;
                begun = true;
                out.push('.');
            }
            Place::Group if begun => out.push(','),
            Place::Group => blank(&mut out),
            Place::Literal(letter) => out.push(*letter),
            Place::Sign => out.push(if negative { '-' } else { '+' }),
            Place::Minus if negative => out.push('-'),
            Place::Plus if !negative => out.push('+'),
            Place::Minus | Place::Plus => blank(&mut out),
        }
    }
    out
}

/// Puts the sign where the pattern names no place for it: before the first digit.
fn finish(pattern: &Pattern, body: String, negative: bool) -> String {
    let has = |place| pattern.places.contains(&place);
    if has(Place::Minus) || has(Place::Plus) {
        return body;
    }
    // What the pattern says before its first digit stays before the number.
    let written = pattern
        .places
        .iter()
        .take_while(|p| matches!(p, Place::Literal(_)));
    let written: usize = written
        .map(|p| {
            if let Place::Literal(l) = p {
                l.len_utf8()
            } else {
                0
            }
        })
        .sum();
    let (front, body) = body.split_at(written);
    let (front, body) = (front.to_owned(), body.to_owned());
    let blanks = body.len() - body.trim_start_matches(' ').len();
    if has(Place::Sign) {
        // A sign that leads stands beside the digits too.
        return front
            + &match body.strip_prefix(['+', '-']) {
                Some(rest) if pattern.places.first() == Some(&Place::Sign) => {
                    let digits = rest.trim_start_matches(' ');
                    let blanks = rest.len() - digits.len();
                    format!("{}{}{digits}", " ".repeat(blanks), &body[..1])
                }
                _ => body,
            };
    }
    let (blank, digits) = body.split_at(blanks);
    front
        + &match (pattern.angle, negative) {
            (true, true) => format!("{blank}<{digits}>"),
            (true, false) if pattern.fill => digits.to_owned(),
            (true, false) => format!("{blank} {digits} "),
            (false, true) => format!("{blank}-{digits}"),
            (false, false) if pattern.fill => digits.to_owned(),
            (false, false) => format!("{blank} {digits}"),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_as_postgresql_shows_them() {
        for (number, pattern, want) in [
            ("12", "999", "  12"),
            ("-12", "999", " -12"),
            ("12", "000", " 012"),
            ("-12", "0000", "-0012"),
            ("1234.5", "9,999.99", " 1,234.50"),
            ("1234567.891", "FM9,999,999.00", "1,234,567.89"),
            ("0.5", "9.99", "  .50"),
            ("0.5", "0.99", " 0.50"),
            ("0", "999", "   0"),
            ("0", "9.9", "  .0"),
            ("12.5", "FM999.99", "12.5"),
            ("12", "FM999.99", "12."),
            ("12", "FM990.00", "12.00"),
            ("1234", "999", " ###"),
            ("-1234", "999", "-###"),
            ("12", "S999", " +12"),
            ("-12", "S999", " -12"),
            ("12", "999S", " 12+"),
            ("-12", "999MI", " 12-"),
            ("12", "999MI", " 12 "),
            ("-12", "999PR", " <12>"),
            ("12", "999PR", "  12 "),
            ("12.345", "99.99", " 12.35"),
            ("99.999", "99.99", " ##.##"),
            ("148.5", "\"Good number:\"999", "Good number: 149"),
            ("485", "FM999", "485"),
            ("12", "FM009", "012"),
            ("1234", "9G999", " 1,234"),
            ("123", "9,999", "   123"),
        ] {
            assert_eq!(show(number, pattern), want, "{number} {pattern}");
        }
    }
}
