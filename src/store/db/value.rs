//! Values as they go into statements and come out of rows.
//!
//! Integers, floats, texts and bytes, as SQLite has them; PostgreSQL's booleans are 0 and 1 here.

use rusqlite::types::{ToSqlOutput, ValueRef};
use std::sync::Arc;

/// A value, borrowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::store) enum Value<'v> {
    /// Nothing.
    Null,
    /// A whole number; 0 or 1 for a boolean.
    Integer(i64),
    /// Any other number. Not a number is stored as none.
    Real(f64),
    /// A text.
    Text(&'v str),
    /// Bytes.
    Blob(&'v [u8]),
}

/// A value that is kept.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::store) enum Owned {
    /// See [`Value::Integer`].
    Integer(i64),
    /// See [`Value::Real`].
    Real(f64),
    /// See [`Value::Text`].
    Text(String),
    /// See [`Value::Blob`].
    Blob(Vec<u8>),
}

impl<'v> Value<'v> {
    pub(super) fn of_sqlite(value: ValueRef<'v>) -> Result<Value<'v>, &'static str> {
        Ok(match value {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(n) => Value::Integer(n),
            ValueRef::Real(x) => Value::Real(x),
            ValueRef::Text(bytes) => {
                Value::Text(std::str::from_utf8(bytes).map_err(|_| "a text that is not UTF-8")?)
            }
            ValueRef::Blob(bytes) => Value::Blob(bytes),
        })
    }

    /// The text; `None` for nothing.
    pub(in crate::store) fn text(self) -> Result<Option<&'v str>, String> {
        match self {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            // PostgreSQL keeps a text that must stay as it is, NUL and all, as bytes.
            Value::Blob(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err("a text that is not UTF-8".to_owned()),
            },
            other => Err(other.is_not("a text")),
        }
    }

    /// The whole number; `None` for nothing.
    pub(in crate::store) fn integer(self) -> Result<Option<i64>, String> {
        match self {
            Value::Null => Ok(None),
            Value::Integer(n) => Ok(Some(n)),
            other => Err(other.is_not("a whole number")),
        }
    }

    /// The number; `None` for nothing.
    pub(in crate::store) fn real(self) -> Result<Option<f64>, String> {
        match self {
            Value::Null => Ok(None),
            Value::Real(x) => Ok(Some(x)),
            Value::Integer(n) => Ok(Some(n as f64)),
            other => Err(other.is_not("a number")),
        }
    }

    /// The bytes; `None` for nothing.
    pub(in crate::store) fn blob(self) -> Result<Option<&'v [u8]>, String> {
        match self {
            Value::Null => Ok(None),
            Value::Blob(bytes) => Ok(Some(bytes)),
            other => Err(other.is_not("bytes")),
        }
    }

    fn is_not(self, wanted: &str) -> String {
        let kind = match self {
            Value::Null => "nothing",
            Value::Integer(_) => "a whole number",
            Value::Real(_) => "a number",
            Value::Text(_) => "a text",
            Value::Blob(_) => "bytes",
        };
        format!("{kind} instead of {wanted}")
    }
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Value::Null => ValueRef::Null,
            Value::Integer(n) => ValueRef::Integer(n),
            Value::Real(x) => ValueRef::Real(x),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// What can be a parameter.
pub(in crate::store) trait ToValue {
    /// The value, as it is bound.
    fn to_value(&self) -> Value<'_>;
}

/// What a column can be read as.
pub(in crate::store) trait FromValue: Sized {
    /// The value, or what is wrong with it.
    fn from_value(value: Value<'_>) -> Result<Self, String>;
}

macro_rules! to_value {
    ($($type:ty, $it:ident => $value:expr;)*) => {$(
        impl ToValue for $type {
            fn to_value(&self) -> Value<'_> {
                let $it = self;
                $value
            }
        }
    )*};
}

to_value! {
    i64, n => Value::Integer(*n);
    i32, n => Value::Integer(i64::from(*n));
    u32, n => Value::Integer(i64::from(*n));
    bool, yes => Value::Integer(i64::from(*yes));
    f64, x => Value::Real(*x);
    str, text => Value::Text(text);
    String, text => Value::Text(text);
    Arc<str>, text => Value::Text(text);
    [u8], bytes => Value::Blob(bytes);
    Vec<u8>, bytes => Value::Blob(bytes);
}

impl<const N: usize> ToValue for [u8; N] {
    fn to_value(&self) -> Value<'_> {
        Value::Blob(self)
    }
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self) -> Value<'_> {
        (**self).to_value()
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, ToValue::to_value)
    }
}

impl ToValue for Owned {
    fn to_value(&self) -> Value<'_> {
        match self {
            Owned::Integer(n) => Value::Integer(*n),
            Owned::Real(x) => Value::Real(*x),
            Owned::Text(text) => Value::Text(text),
            Owned::Blob(bytes) => Value::Blob(bytes),
        }
    }
}

fn there<T>(value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| "nothing is there".to_owned())
}

macro_rules! from_value {
    ($($type:ty, $value:ident => $read:expr;)*) => {$(
        impl FromValue for $type {
            fn from_value($value: Value<'_>) -> Result<Self, String> {
                $read
            }
        }
    )*};
}

from_value! {
    i64, value => there(value.integer()?);
    u32, value => {
        let n = there(value.integer()?)?;
        u32::try_from(n).map_err(|_| format!("{n} is out of range"))
    };
    bool, value => Ok(there(value.integer()?)? != 0);
    f64, value => there(value.real()?);
    String, value => Ok(there(value.text()?)?.to_owned());
    Arc<str>, value => Ok(there(value.text()?)?.into());
    Vec<u8>, value => Ok(there(value.blob()?)?.to_vec());
    [u8; 32], value => {
        let bytes = there(value.blob()?)?;
        bytes.try_into().map_err(|_| format!("{} bytes instead of 32", bytes.len()))
    };
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value<'_>) -> Result<Self, String> {
        match value {
            Value::Null => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// The parameters of a statement, in order.
pub(in crate::store) trait Params {
    /// Their values.
    fn values(&self) -> Vec<Value<'_>>;
}

impl Params for () {
    fn values(&self) -> Vec<Value<'_>> {
        Vec::new()
    }
}

impl<T: ToValue, const N: usize> Params for [T; N] {
    fn values(&self) -> Vec<Value<'_>> {
        self.iter().map(ToValue::to_value).collect()
    }
}

impl Params for &[&dyn ToValue] {
    fn values(&self) -> Vec<Value<'_>> {
        self.iter().map(|value| value.to_value()).collect()
    }
}

impl Params for Vec<&Owned> {
    fn values(&self) -> Vec<Value<'_>> {
        self.iter().map(|value| value.to_value()).collect()
    }
}

/// Parameters of several types.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$(&$value as &dyn $crate::store::db::ToValue),*] as &[&dyn $crate::store::db::ToValue]
    };
}
pub(in crate::store) use params;
