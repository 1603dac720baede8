//! Arrays that are written as texts: `'{1,2}'::int[]`, `x = ANY ('{a,b}')`.

use datafusion::sql::sqlparser::ast::{Array, ArrayElemTypeDef, CastKind, DataType, Expr, Value};

pub(super) fn rewrite(expr: &mut Expr) {
    match expr {
        Expr::Cast {
            expr: inner,
            data_type:
                DataType::Array(
                    ArrayElemTypeDef::SquareBracket(item, _) | ArrayElemTypeDef::AngleBracket(item),
                ),
            ..
        } => {
            if let Some(array) = written(inner, Some(item)) {
                **inner = array;
            }
        }
        Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } => {
            while let Expr::Nested(inner) = right.as_mut() {
                let inner = std::mem::replace(inner.as_mut(), Expr::value(Value::Null));
                **right = inner;
            }
            if let Some(array) = written(right, None) {
                **right = array;
            }
        }
        _ => {}
    }
}

/// The array that a text is, if it is one.
fn written(expr: &Expr, item: Option<&DataType>) -> Option<Expr> {
    let Expr::Value(value) = expr else {
        return None;
    };
    let Value::SingleQuotedString(text) = &value.value else {
        return None;
    };
    let items = items(text)?;
    let element = |text: Option<String>| {
        let value = text.map_or(Value::Null, Value::SingleQuotedString);
        let value = Expr::value(value);
        match item {
            Some(item) => Expr::Cast {
                kind: CastKind::Cast,
                expr: Box::new(value),
                data_type: item.clone(),
                array: false,
                format: None,
            },
            None => value,
        }
    };
    Some(Expr::Array(Array {
        elem: items.into_iter().map(element).collect(),
        named: true,
    }))
}

/// The items of a one-dimensional array's text; NULL is `None`.
fn items(text: &str) -> Option<Vec<Option<String>>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    if inner.trim().is_empty() {
        return Some(Vec::new());
    }
    let (mut items, mut item, mut quoted, mut was_quoted) =
        (Vec::new(), String::new(), false, false);
    let mut finish = |item: &mut String, was_quoted: bool| {
        let text = std::mem::take(item);
        items.push(match was_quoted {
            true => Some(text),
            false if text.trim().eq_ignore_ascii_case("null") => None,
            false => Some(text.trim().to_owned()),
        });
    };
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => item.extend(letters.next()),
            '"' => {
                quoted = !quoted;
                was_quoted = true;
            }
            ',' if !quoted => {
                finish(&mut item, was_quoted);
                was_quoted = false;
            }
            '{' | '}' if !quoted => return None,
            letter => item.push(letter),
        }
    }
    finish(&mut item, was_quoted);
    Some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_arrays_are_read() {
        let some = |text: &str| Some(text.to_owned());
        for (text, want) in [
            ("{}", Some(vec![])),
            ("{1, 2}", Some(vec![some("1"), some("2")])),
            (
                "{a,NULL,\"NULL\"}",
                Some(vec![some("a"), None, some("NULL")]),
            ),
            (
                "{\"a,b\",\"c\\\"d\"}",
                Some(vec![some("a,b"), some("c\"d")]),
            ),
            ("{{1},{2}}", None),
            ("abc", None),
        ] {
            assert_eq!(items(text), want, "{text}");
        }
    }
}
