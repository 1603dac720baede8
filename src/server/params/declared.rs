//! Types as PREPARE spells them.
//!
//! Takes type names as parsed, gives PostgreSQL's numbers. Knows no values.

use crate::server::failure::Failure;
use datafusion::sql::sqlparser::ast::DataType as T;
use pgwire::api::Type;

/// The types that a PREPARE declares, as PostgreSQL numbers them.
///
/// # Errors
/// 42704 for a type that has no number here.
pub fn declared(types: &[T]) -> Result<Vec<u32>, Failure> {
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
            T::Timestamp(_, zone) => {
                match zone.to_string().contains("WITH TIME ZONE") || zone.to_string() == "TZ" {
                    true => Type::TIMESTAMPTZ,
                    false => Type::TIMESTAMP,
                }
            }
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
