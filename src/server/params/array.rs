//! Arrays of one dimension, from text and binary.

use super::{Source, malformed, unsupported};
use crate::server::encode::{Zone, oids};
use crate::server::failure::Failure;
use datafusion::arrow::array::{ArrayRef, ListArray, new_empty_array};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use pgwire::api::Type;
use std::sync::Arc;

fn literal(text: &str, detail: &str) -> Failure {
    let text = super::shortened(text);
    Failure {
        detail: Some(detail.into()),
        ..Failure::new("22P02", format!("malformed array literal: \"{text}\""))
    }
}

fn dimensions() -> Failure {
    unsupported("arrays of more than one dimension are not supported")
}

/// `{1,NULL,"a b"}`, perhaps after its bounds: `[0:2]={..}`.
pub fn from_text(
    text: &str,
    element: &Type,
    wanted: Option<&DataType>,
    zone: &Zone,
) -> Result<ScalarValue, Failure> {
    let mut body = text.trim_matches(super::text::is_space);
    if body.starts_with('[') {
        let (bounds, rest) = body
            .split_once('=')
            .ok_or_else(|| literal(text, "Missing \"=\" after array dimensions."))?;
        if bounds.matches('[').count() > 1 {
            return Err(dimensions());
        }
        body = rest.trim_start_matches(super::text::is_space);
    }
    let source = Source {
        format: 0,
        oid: element.oid(),
        zone,
    };
    let wanted_element = wanted.and_then(oids::element).map(|f| f.data_type());
    let mut values = Vec::new();
    let mut scan = Scan {
        text,
        rest: body.as_bytes(),
        buffer: Vec::new(),
    };
    scan.open()?;
    while let Some(null) = scan.element(values.is_empty())? {
        let bytes = (!null).then_some(scan.buffer.as_slice());
        values.push(source.decode(bytes, wanted_element)?);
    }
    build(values, element, wanted)
}

/// Walks through an array's text.
struct Scan<'a> {
    text: &'a str,
    rest: &'a [u8],
    /// The element found last, without quotes.
    buffer: Vec<u8>,
}

impl Scan<'_> {
    fn wrong(&self, detail: &str) -> Failure {
        literal(self.text, detail)
    }

    fn skip_spaces(&mut self) {
        while let [first, rest @ ..] = self.rest {
            if !super::text::is_space(char::from(*first)) {
                break;
            }
            self.rest = rest;
        }
    }

    fn open(&mut self) -> Result<(), Failure> {
        match self.rest {
            [b'{', rest @ ..] => {
                self.rest = rest;
                Ok(())
            }
            _ => Err(self.wrong("Array value must start with \"{\" or dimension information.")),
        }
    }

    /// The next element, into the buffer, and whether it is NULL; none at the end of the array.
    fn element(&mut self, first: bool) -> Result<Option<bool>, Failure> {
        self.skip_spaces();
        match self.rest {
            [b'}', rest @ ..] => {
                self.rest = rest;
                self.skip_spaces();
                return match self.rest {
                    [] => Ok(None),
                    _ => Err(self.wrong("Junk after closing right brace.")),
                };
            }
            [b',', rest @ ..] if !first => {
                self.rest = rest;
                self.skip_spaces();
            }
            [_, ..] if first => {}
            [] => return Err(self.wrong("Unexpected end of input.")),
            _ => return Err(self.wrong("Unexpected array element.")),
        }
        self.buffer.clear();
        match self.rest {
            [b'"', ..] => self.quoted().map(|()| Some(false)),
            [b'{', ..] => Err(dimensions()),
            _ => self.bare().map(Some),
        }
    }

    fn quoted(&mut self) -> Result<(), Failure> {
        self.rest = &self.rest[1..];
        loop {
            self.rest = match self.rest {
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    return Ok(());
                }
                [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
                    self.buffer.push(*byte);
                    rest
                }
                [] => return Err(self.wrong("Unexpected end of input.")),
            };
        }
    }

    /// An element without quotes; whether it is NULL.
    fn bare(&mut self) -> Result<bool, Failure> {
        let mut escaped = false;
        // Up to here spaces count: those that were escaped do.
        let mut kept = 0;
        loop {
            self.rest = match self.rest {
                [b',' | b'}', ..] => break,
                [b'"' | b'{', ..] => return Err(self.wrong("Unexpected array element.")),
                [b'\\', byte, rest @ ..] => {
                    escaped = true;
                    self.buffer.push(*byte);
                    kept = self.buffer.len();
                    rest
                }
                [byte, rest @ ..] => {
                    self.buffer.push(*byte);
                    if !super::text::is_space(char::from(*byte)) {
                        kept = self.buffer.len();
                    }
                    rest
                }
                [] => return Err(self.wrong("Unexpected end of input.")),
            };
        }
        self.buffer.truncate(kept);
        if self.buffer.is_empty() {
            return Err(self.wrong("Unexpected \",\" or \"}\" character."));
        }
        Ok(!escaped && self.buffer.eq_ignore_ascii_case(b"null"))
    }
}

/// As `array_recv` reads it.
pub fn from_binary(
    bytes: &[u8],
    element: &Type,
    wanted: Option<&DataType>,
    zone: &Zone,
) -> Result<ScalarValue, Failure> {
    let mut rest = bytes;
    let mut word = || -> Result<i32, Failure> {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        rest = tail;
        Ok(i32::from_be_bytes(*head))
    };
    let (count, flags, oid) = (word()?, word()?, word()? as u32);
    if !(0..=6).contains(&count) || ![0, 1].contains(&flags) {
        return Err(malformed());
    }
    // A client that calls varchar text means the same elements.
    let texts = super::is_text(oid) && super::is_text(element.oid());
    if oid != element.oid() && !texts {
        return Err(Failure::new(
            "42804",
            format!(
                "binary data has array element type {oid} instead of expected {}",
                element.oid()
            ),
        ));
    }
    let length = match count {
        0 => 0,
        1 => {
            let length = word()?;
            word()?;
            length
        }
        _ => return Err(dimensions()),
    };
    let source = Source {
        format: 1,
        oid,
        zone,
    };
    let wanted_element = wanted.and_then(oids::element).map(|f| f.data_type());
    let length = usize::try_from(length).map_err(|_| malformed())?;
    if length > rest.len() / 4 {
        return Err(malformed());
    }
    let mut values = Vec::with_capacity(length);
    for _ in 0..length {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        rest = tail;
        let value = match i32::from_be_bytes(*head) {
            -1 => None,
            size => {
                let size = usize::try_from(size).map_err(|_| malformed())?;
                let (value, tail) = rest.split_at_checked(size).ok_or_else(malformed)?;
                rest = tail;
                Some(value)
            }
        };
        values.push(source.decode(value, wanted_element)?);
    }
    match rest {
        [] => build(values, element, wanted),
        _ => Err(malformed()),
    }
}

/// A list of values that came each in its own type.
fn build(
    mut values: Vec<ScalarValue>,
    element: &Type,
    wanted: Option<&DataType>,
) -> Result<ScalarValue, Failure> {
    let field = wanted.and_then(oids::element).cloned();
    let data_type = match &field {
        Some(field) => field.data_type().clone(),
        None => common(&values, element),
    };
    for value in &mut values {
        if value.data_type() != data_type {
            *value = super::cast::cast(value.clone(), &data_type, &Zone::Utc)?;
        }
    }
    let array: ArrayRef = match values.is_empty() {
        true => new_empty_array(&data_type),
        false => ScalarValue::iter_to_array(values)?,
    };
    let field = field.unwrap_or_else(|| Arc::new(Field::new_list_field(data_type, true)));
    let field = Arc::new(field.as_ref().clone().with_nullable(true));
    let offsets = OffsetBuffer::from_lengths([array.len()]);
    let list = ListArray::try_new(field, offsets, array, None)
        .map_err(|error| Failure::new("XX000", error.to_string()))?;
    Ok(ScalarValue::List(Arc::new(list)))
}

/// The type of elements: of numerics the decimal that holds each exactly.
fn common(values: &[ScalarValue], element: &Type) -> DataType {
    let plain = super::arrow_type(element.oid()).unwrap_or(DataType::Utf8);
    if *element != Type::NUMERIC {
        return plain;
    }
    let (mut whole, mut scale) = (0_u8, 0_i8);
    for value in values {
        let (precision, behind) = match value {
            ScalarValue::Decimal128(Some(_), p, s) | ScalarValue::Decimal256(Some(_), p, s) => {
                (*p, *s)
            }
            _ => continue,
        };
        whole = whole.max(precision.saturating_sub(behind.unsigned_abs()));
        scale = scale.max(behind);
    }
    match whole.saturating_add(scale.unsigned_abs()) {
        0 => plain,
        precision @ 1..=38 => DataType::Decimal128(precision, scale),
        precision => DataType::Decimal256(precision.min(76), scale),
    }
}
