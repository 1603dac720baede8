//! PostgreSQL's type of an Arrow field.
//!
//! Follows arrow-pg's table and its two metadata keys (`pg.oid_alias`, `pg.char`), and Arrow's `arrow.json` and
//! `arrow.uuid` extension types. What PostgreSQL has no type for (maps, unions, lists of lists) is text rather than an
//! error.

use arrow_pg::datatypes::{PG_OID_ALIAS_KEY, is_pg_char_field, pg_type_for_alias_kind};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use pgwire::api::Type;
use std::sync::Arc;

/// PostgreSQL's type of a field.
pub fn pg_type(field: &Field) -> Type {
    let data_type = match field.data_type() {
        DataType::Dictionary(_, values) => values.as_ref(),
        other => other,
    };
    if let Some(element) = element(data_type) {
        return match is_list(element.data_type()) {
            true => Type::TEXT,
            false => array_of(&pg_type(element)),
        };
    }
    let alias = field.metadata().get(PG_OID_ALIAS_KEY);
    let whole = [DataType::Int32, DataType::Int64, DataType::UInt32];
    let alias = alias.filter(|_| whole.contains(data_type));
    if let Some(alias) = alias.and_then(|kind| pg_type_for_alias_kind(kind)) {
        return alias;
    }
    let base = base_type(data_type);
    if base == Type::TEXT && data_type.is_string() && is_pg_char_field(field) {
        return Type::CHAR;
    }
    match field.extension_type_name() {
        Some("arrow.json") if data_type.is_string() => Type::JSON,
        Some("arrow.uuid") if *data_type == DataType::FixedSizeBinary(16) => Type::UUID,
        _ => base,
    }
}

/// PostgreSQL's type of an Arrow type that carries no metadata.
pub fn base_type(data_type: &DataType) -> Type {
    use DataType as D;
    match data_type {
        D::Boolean => Type::BOOL,
        D::Int8 | D::Int16 | D::UInt8 => Type::INT2,
        D::Int32 | D::UInt16 => Type::INT4,
        D::Int64 | D::UInt32 => Type::INT8,
        D::UInt64 | D::Decimal32(..) | D::Decimal64(..) | D::Decimal128(..) | D::Decimal256(..) => {
            Type::NUMERIC
        }
        D::Float16 | D::Float32 => Type::FLOAT4,
        D::Float64 => Type::FLOAT8,
        D::Timestamp(_, None) => Type::TIMESTAMP,
        D::Timestamp(_, Some(_)) => Type::TIMESTAMPTZ,
        D::Date32 | D::Date64 => Type::DATE,
        D::Time32(_) | D::Time64(_) => Type::TIME,
        D::Interval(_) | D::Duration(_) => Type::INTERVAL,
        D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => Type::BYTEA,
        D::Struct(_) => Type::RECORD,
        D::Dictionary(_, values) => base_type(values),
        D::RunEndEncoded(_, values) => base_type(values.data_type()),
        other => match element(other) {
            Some(element) if is_list(element.data_type()) => Type::TEXT,
            Some(element) => array_of(&pg_type(element)),
            None => Type::TEXT,
        },
    }
}

/// The element of a list of any kind.
pub fn element(data_type: &DataType) -> Option<&FieldRef> {
    use DataType as D;
    match data_type {
        D::List(element)
        | D::LargeList(element)
        | D::ListView(element)
        | D::LargeListView(element)
        | D::FixedSizeList(element, _) => Some(element),
        _ => None,
    }
}

/// Whether it is a list of any kind.
pub fn is_list(data_type: &DataType) -> bool {
    element(data_type).is_some()
}

/// Types and the types of their arrays.
const ARRAYS: [(Type, Type); 36] = [
    (Type::BOOL, Type::BOOL_ARRAY),
    (Type::INT2, Type::INT2_ARRAY),
    (Type::INT4, Type::INT4_ARRAY),
    (Type::INT8, Type::INT8_ARRAY),
    (Type::FLOAT4, Type::FLOAT4_ARRAY),
    (Type::FLOAT8, Type::FLOAT8_ARRAY),
    (Type::NUMERIC, Type::NUMERIC_ARRAY),
    (Type::TEXT, Type::TEXT_ARRAY),
    (Type::CHAR, Type::CHAR_ARRAY),
    (Type::BYTEA, Type::BYTEA_ARRAY),
    (Type::DATE, Type::DATE_ARRAY),
    (Type::TIME, Type::TIME_ARRAY),
    (Type::TIMETZ, Type::TIMETZ_ARRAY),
    (Type::TIMESTAMP, Type::TIMESTAMP_ARRAY),
    (Type::TIMESTAMPTZ, Type::TIMESTAMPTZ_ARRAY),
    (Type::INTERVAL, Type::INTERVAL_ARRAY),
    (Type::JSON, Type::JSON_ARRAY),
    (Type::JSONB, Type::JSONB_ARRAY),
    (Type::UUID, Type::UUID_ARRAY),
    (Type::XML, Type::XML_ARRAY),
    (Type::RECORD, Type::RECORD_ARRAY),
    (Type::VARCHAR, Type::VARCHAR_ARRAY),
    (Type::BPCHAR, Type::BPCHAR_ARRAY),
    (Type::NAME, Type::NAME_ARRAY),
    (Type::OID, Type::OID_ARRAY),
    (Type::REGPROC, Type::REGPROC_ARRAY),
    (Type::REGPROCEDURE, Type::REGPROCEDURE_ARRAY),
    (Type::REGOPER, Type::REGOPER_ARRAY),
    (Type::REGOPERATOR, Type::REGOPERATOR_ARRAY),
    (Type::REGCLASS, Type::REGCLASS_ARRAY),
    (Type::REGTYPE, Type::REGTYPE_ARRAY),
    (Type::REGNAMESPACE, Type::REGNAMESPACE_ARRAY),
    (Type::REGROLE, Type::REGROLE_ARRAY),
    (Type::REGCONFIG, Type::REGCONFIG_ARRAY),
    (Type::REGDICTIONARY, Type::REGDICTIONARY_ARRAY),
    (Type::REGCOLLATION, Type::REGCOLLATION_ARRAY),
];

/// The type of arrays of `element`; of text where PostgreSQL has none.
fn array_of(element: &Type) -> Type {
    let found = ARRAYS.iter().find(|(of, _)| of == element);
    found.map_or(Type::TEXT_ARRAY, |(_, array)| array.clone())
}

/// The type of the elements of arrays of type `oid`; none if it is not one of arrays.
pub fn element_of(oid: u32) -> Option<Type> {
    let found = ARRAYS.iter().find(|(_, array)| array.oid() == oid);
    found.map(|(element, _)| element.clone())
}

/// `pg_type.typlen`: bytes of a value, -1 where they vary.
pub fn type_len(pg_type: &Type) -> i16 {
    match *pg_type {
        Type::BOOL | Type::CHAR => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIME | Type::TIMESTAMP | Type::TIMESTAMPTZ => 8,
        Type::INTERVAL | Type::UUID => 16,
        _ if is_oid(pg_type) => 4,
        _ => -1,
    }
}

/// Whether values of the type are object identifiers: unsigned, four bytes.
pub fn is_oid(pg_type: &Type) -> bool {
    matches!(
        *pg_type,
        Type::OID
            | Type::REGPROC
            | Type::REGPROCEDURE
            | Type::REGOPER
            | Type::REGOPERATOR
            | Type::REGCLASS
            | Type::REGTYPE
            | Type::REGNAMESPACE
            | Type::REGROLE
            | Type::REGCONFIG
            | Type::REGDICTIONARY
            | Type::REGCOLLATION
    )
}

/// The type as which a value is written: rare layouts become the common one that holds the same values.
pub fn plain(data_type: &DataType) -> DataType {
    use DataType as D;
    let field = |field: &FieldRef| -> FieldRef {
        let own = plain(field.data_type());
        match own == *field.data_type() {
            true => field.clone(),
            false => Arc::new(field.as_ref().clone().with_data_type(own)),
        }
    };
    match data_type {
        D::RunEndEncoded(_, values) => plain(values.data_type()),
        D::Float16 => D::Float32,
        D::List(element) | D::ListView(element) => D::List(field(element)),
        D::LargeList(element) | D::LargeListView(element) => D::LargeList(field(element)),
        D::FixedSizeList(element, size) => D::FixedSizeList(field(element), *size),
        D::Struct(fields) => D::Struct(fields.iter().map(field).collect()),
        other => other.clone(),
    }
}
