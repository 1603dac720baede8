//! What holds other values: dictionaries, lists as arrays, structs as records, unions; maps and the unknown as text.

use super::cell::{Cell, Shape, Slot, slot as cell_slot};
use super::{Form, Zone, oids, quote};
use bytes::{BufMut, BytesMut};
use datafusion::arrow::array::*;
use datafusion::arrow::datatypes::*;
use datafusion::arrow::downcast_dictionary_array;
use datafusion::arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use std::cell::RefCell;
use std::sync::LazyLock;

/// A slot of an array that is no scalar.
pub fn slot<'a>(array: &'a dyn Array, field: &'a FieldRef, form: Form, zone: &'a Zone) -> Slot<'a> {
    match array.data_type() {
        DataType::Null => Slot::new(array, Shape::Free, Box::new(Nothing)),
        DataType::Dictionary(..) => dictionary(array, field, form, zone),
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::FixedSizeList(element, _) => list(array, element, form, zone),
        DataType::Struct(fields) => record(array, fields, form, zone),
        DataType::Union(fields, _) => union(array, fields, zone),
        _ => text(array, field),
    }
}

/// The values of an array of nulls.
struct Nothing;

impl Cell for Nothing {
    fn put(&self, _: usize, _: &mut BytesMut) {}
}

/// Keys that point into the slot of the values.
struct Keyed<'a, K: ArrowDictionaryKeyType> {
    keys: &'a PrimitiveArray<K>,
    values: Slot<'a>,
}

impl<K: ArrowDictionaryKeyType> Cell for Keyed<'_, K> {
    fn put(&self, row: usize, out: &mut BytesMut) {
        self.values.put(self.keys.value(row).as_usize(), out);
    }
}

fn dictionary<'a>(
    array: &'a dyn Array,
    field: &'a FieldRef,
    form: Form,
    zone: &'a Zone,
) -> Slot<'a> {
    downcast_dictionary_array! {
        array => {
            let values = cell_slot(array.values(), field, form, zone);
            let shape = values.shape;
            Slot::new(array, shape, Box::new(Keyed { keys: array.keys(), values }))
        }
        _ => text(array, field)
    }
}

/// Where each row's elements are.
enum Bounds<'a> {
    Small(&'a [i32]),
    Large(&'a [i64]),
    Fixed(usize),
}

struct List<'a> {
    bounds: Bounds<'a>,
    elements: Slot<'a>,
    form: Form,
    oid: u32,
}

impl List<'_> {
    fn range(&self, row: usize) -> std::ops::Range<usize> {
        match self.bounds {
            Bounds::Small(offsets) => offsets[row] as usize..offsets[row + 1] as usize,
            Bounds::Large(offsets) => offsets[row] as usize..offsets[row + 1] as usize,
            Bounds::Fixed(size) => row * size..(row + 1) * size,
        }
    }

    fn put_text(&self, row: usize, out: &mut BytesMut) {
        out.put_u8(b'{');
        for (at, element) in self.range(row).enumerate() {
            if at > 0 {
                out.put_u8(b',');
            }
            if self.elements.is_null(element) {
                out.extend_from_slice(b"NULL");
                continue;
            }
            let start = out.len();
            self.elements.put(element, out);
            if self.elements.shape == Shape::Free {
                quote::array_element(start, out);
            }
        }
        out.put_u8(b'}');
    }

    fn put_binary(&self, row: usize, out: &mut BytesMut) {
        let range = self.range(row);
        let nulls = range.clone().any(|element| self.elements.is_null(element));
        // An empty array has no dimensions.
        out.put_i32(i32::from(!range.is_empty()));
        out.put_i32(i32::from(nulls));
        out.put_u32(self.oid);
        if !range.is_empty() {
            out.put_i32(range.len() as i32);
            out.put_i32(1);
        }
        for element in range {
            self.elements.put_sized(element, out);
        }
    }
}

impl Cell for List<'_> {
    fn put(&self, row: usize, out: &mut BytesMut) {
        match self.form {
            Form::Text => self.put_text(row, out),
            Form::Binary => self.put_binary(row, out),
        }
    }
}

fn list<'a>(array: &'a dyn Array, element: &'a FieldRef, form: Form, zone: &'a Zone) -> Slot<'a> {
    // Lists of lists are text: PostgreSQL's arrays are rectangular, Arrow's lists need not be.
    let form = match oids::is_list(element.data_type()) {
        true => Form::Text,
        false => form,
    };
    let (bounds, values) = match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            (Bounds::Small(list.value_offsets()), list.values())
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            (Bounds::Large(list.value_offsets()), list.values())
        }
        _ => {
            let list = array.as_fixed_size_list();
            (Bounds::Fixed(list.value_length() as usize), list.values())
        }
    };
    let cell = List {
        bounds,
        elements: cell_slot(values, element, form, zone),
        form,
        oid: oids::pg_type(element).oid(),
    };
    Slot::new(array, Shape::List, Box::new(cell))
}

/// A struct as a record.
struct Record<'a> {
    fields: Vec<(u32, Slot<'a>)>,
    form: Form,
}

impl Cell for Record<'_> {
    fn put(&self, row: usize, out: &mut BytesMut) {
        if self.form == Form::Binary {
            out.put_i32(self.fields.len() as i32);
            for (oid, slot) in &self.fields {
                out.put_u32(*oid);
                slot.put_sized(row, out);
            }
            return;
        }
        out.put_u8(b'(');
        for (at, (_, slot)) in self.fields.iter().enumerate() {
            if at > 0 {
                out.put_u8(b',');
            }
            if slot.is_null(row) {
                continue;
            }
            let start = out.len();
            slot.put(row, out);
            if slot.shape != Shape::Plain {
                quote::record_field(start, out);
            }
        }
        out.put_u8(b')');
    }
}

fn record<'a>(array: &'a dyn Array, fields: &'a Fields, form: Form, zone: &'a Zone) -> Slot<'a> {
    let columns = array.as_struct().columns().iter().zip(fields);
    let fields = columns
        .map(|(column, field)| {
            let oid = oids::pg_type(field).oid();
            (oid, cell_slot(column, field, form, zone))
        })
        .collect();
    Slot::new(array, Shape::Free, Box::new(Record { fields, form }))
}

/// A union: the text of whichever member a row has.
struct Member<'a> {
    array: &'a UnionArray,
    members: Vec<(i8, Slot<'a>)>,
}

impl Cell for Member<'_> {
    fn put(&self, row: usize, out: &mut BytesMut) {
        let id = self.array.type_id(row);
        if let Some((_, slot)) = self.members.iter().find(|(of, _)| *of == id) {
            slot.put(self.array.value_offset(row), out);
        }
    }
}

fn union<'a>(array: &'a dyn Array, fields: &'a UnionFields, zone: &'a Zone) -> Slot<'a> {
    let array = array.as_union();
    let members = fields.iter();
    let members = members
        .map(|(id, field)| (id, cell_slot(array.child(id), field, Form::Text, zone)))
        .collect();
    Slot::new(array, Shape::Free, Box::new(Member { array, members }))
}

/// Arrow's own JSON, where it has one.
struct Json<'a> {
    encoder: RefCell<(NullableEncoder<'a>, Vec<u8>)>,
}

impl Cell for Json<'_> {
    fn put(&self, row: usize, out: &mut BytesMut) {
        let mut encoder = self.encoder.borrow_mut();
        let (encoder, text) = &mut *encoder;
        text.clear();
        encoder.encode(row, text);
        out.extend_from_slice(text);
    }
}

/// Arrow's own display, for what nothing else knows.
struct Shown<'a> {
    formatter: ArrayFormatter<'a>,
}

impl Cell for Shown<'_> {
    fn put(&self, row: usize, out: &mut BytesMut) {
        out.extend_from_slice(self.formatter.value(row).to_string().as_bytes());
    }
}

fn text<'a>(array: &'a dyn Array, field: &'a FieldRef) -> Slot<'a> {
    static JSON: LazyLock<EncoderOptions> =
        LazyLock::new(|| EncoderOptions::default().with_explicit_nulls(true));
    static SHOWN: LazyLock<FormatOptions<'static>> =
        LazyLock::new(|| FormatOptions::default().with_display_error(true));
    if let Ok(encoder) = make_encoder(field, array, &JSON) {
        let encoder = RefCell::new((encoder, Vec::new()));
        return Slot::new(array, Shape::Free, Box::new(Json { encoder }));
    }
    match ArrayFormatter::try_new(array, &SHOWN) {
        Ok(formatter) => Slot::new(array, Shape::Free, Box::new(Shown { formatter })),
        Err(_) => Slot::new(array, Shape::Free, Box::new(Nothing)),
    }
}
