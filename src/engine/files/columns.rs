//! Columns as files give them: what was chosen, and where two files disagree.
//!
//! Takes schemas and headers, gives sentences. Reads no file.

use super::text::Text;
use datafusion::arrow::datatypes::{DataType, Schema, TimeUnit};

/// Columns named in one notice.
const NAMED_MAX: usize = 20;

/// `id bigint, body text`; the first [`NAMED_MAX`] of them.
pub(super) fn listed(schema: &Schema) -> String {
    let fields = schema.fields().iter();
    let mut named: Vec<String> = fields
        .take(NAMED_MAX)
        .map(|field| format!("{} {}", field.name(), sql_type(field.data_type())))
        .collect();
    if schema.fields().len() > NAMED_MAX {
        named.push("..".to_owned());
    }
    named.join(", ")
}

/// `1 column`, `2 columns`.
pub(super) fn counted(number: usize, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {one}s"),
    }
}

/// A type as SQL writes it.
pub(super) fn sql_type(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Boolean => "boolean",
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "smallint",
        DataType::Int32 | DataType::UInt16 => "integer",
        DataType::Int64 | DataType::UInt32 => "bigint",
        DataType::UInt64 => "bigint unsigned",
        DataType::Float16 | DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "bytea",
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Time32(_) | DataType::Time64(_) => "time",
        DataType::Timestamp(TimeUnit::Second, None) => "timestamp(0)",
        DataType::Timestamp(_, None) => "timestamp",
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone",
        DataType::Null => "without values",
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            return format!("numeric({precision},{scale})");
        }
        DataType::List(item) | DataType::LargeList(item) => {
            return format!("{}[]", sql_type(item.data_type()));
        }
        DataType::Dictionary(_, value) => return sql_type(value),
        other => return other.to_string().to_lowercase(),
    };
    name.to_owned()
}

/// DataFusion's `column 0` with the column's name.
pub(super) fn named(why: &str, schema: &Schema) -> String {
    const COLUMN: &str = "column ";
    let Some(at) = why.rfind(COLUMN).map(|at| at + COLUMN.len()) else {
        return why.to_owned();
    };
    let digits = why[at..].find(|c: char| !c.is_ascii_digit());
    let (number, after) = why[at..].split_at(digits.unwrap_or(why.len() - at));
    let field = number
        .parse()
        .ok()
        .and_then(|index: usize| schema.fields().get(index));
    match field {
        Some(field) => format!("{}\"{}\"{after}", &why[..at], field.name()),
        None => why.to_owned(),
    }
}

/// What is wrong with a header, whose columns are read by place. Columns that are declared may have other names than the
/// file's, but not each other's.
pub(super) fn misplaced(header: &[String], text: &Text, inferred: bool) -> Option<String> {
    let fields = text.schema.fields();
    for (place, field) in fields.iter().enumerate() {
        let name = field.name();
        let here = header.get(place);
        if here.is_some_and(|here| here.eq_ignore_ascii_case(name)) {
            continue;
        }
        let there = header
            .iter()
            .position(|other| other.eq_ignore_ascii_case(name));
        if let Some(there) = there {
            return Some(format!(
                "column \"{name}\" is in place {} of its header and in place {} of the table: CSV is read by place",
                there + 1,
                place + 1
            ));
        }
        if inferred && (here.is_some() || !text.truncated) {
            return Some(format!("its header has no column \"{name}\""));
        }
    }
    let more = header.get(fields.len()).filter(|_| inferred)?;
    Some(format!(
        "its header has a column \"{more}\", which the table has not"
    ))
}

/// The first column that two files give different types.
pub(super) fn differing<'a>(
    one: &'a Schema,
    other: &'a Schema,
) -> Option<(&'a str, String, String)> {
    let null = |data_type: &DataType| *data_type == DataType::Null;
    one.fields().iter().find_map(|field| {
        let (_, found) = other.column_with_name(field.name())?;
        let (left, right) = (field.data_type(), found.data_type());
        let differ = left != right && !null(left) && !null(right);
        differ.then(|| (field.name().as_str(), sql_type(left), sql_type(right)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::datatypes::Field;

    #[test]
    fn columns_are_named_as_sql_does() {
        let many = (0..30).map(|n| Field::new(format!("c{n}"), DataType::Int64, true));
        let many = Schema::new(many.collect::<Vec<_>>());
        let said = listed(&many);
        assert!(said.starts_with("c0 bigint, c1 bigint, "), "{said}");
        assert!(said.ends_with("c19 bigint, .."), "{said}");
        for (data_type, want) in [
            (DataType::Utf8View, "text"),
            (DataType::Float64, "double precision"),
            (DataType::Decimal128(10, 2), "numeric(10,2)"),
            (DataType::new_list(DataType::Int32, true), "integer[]"),
            (DataType::Timestamp(TimeUnit::Nanosecond, None), "timestamp"),
            (DataType::Timestamp(TimeUnit::Second, None), "timestamp(0)"),
        ] {
            assert_eq!(sql_type(&data_type), want);
        }
    }

    #[test]
    fn a_number_of_a_column_becomes_its_name() {
        let schema = Schema::new(vec![Field::new("id", DataType::Int64, true)]);
        for (why, want) in [
            (
                "as type 'Int32' for column 0 at ",
                "as type 'Int32' for column \"id\" at ",
            ),
            ("parsing column 0 at ", "parsing column \"id\" at "),
            ("for column 7 at ", "for column 7 at "),
            ("nothing", "nothing"),
        ] {
            assert_eq!(named(why, &schema), want);
        }
    }
}
