//! Logits as text, for comparing this model with others.
//!
//! Takes a model and token ids, writes one JSON object a line and position. Numbers are the shortest that read back as
//! the same f32.

use super::{GptOss, ModelError};
use std::io::Write;

/// Positions whose logits are computed and written together.
const POSITIONS: usize = 16;

/// Reads token ids separated by white space or commas.
pub fn parse_ids(text: &str) -> Result<Vec<u32>, ModelError> {
    text.split(|c: char| c.is_whitespace() || c == ',')
        .filter(|word| !word.is_empty())
        .map(|word| {
            word.parse().map_err(|_| ModelError::NotAnId {
                word: word.to_owned(),
            })
        })
        .collect()
}

/// Writes `{"position":..,"logits":[..]}` a line for the last `last` positions of `ids` (all by default), in order.
pub fn write_logits(
    model: &GptOss,
    ids: &[u32],
    last: Option<usize>,
    out: &mut dyn Write,
) -> Result<(), ModelError> {
    #[derive(serde::Serialize)]
    struct Line<'a> {
        position: usize,
        logits: &'a [f32],
    }
    let hidden = model.forward(ids, &mut model.new_cache())?;
    let first = ids.len() - last.unwrap_or(ids.len()).min(ids.len());
    for from in (first..ids.len()).step_by(POSITIONS) {
        let count = POSITIONS.min(ids.len() - from);
        let logits: Vec<Vec<f32>> = model.logits(&hidden.narrow(0, from, count)?)?.to_vec2()?;
        for (row, logits) in logits.iter().enumerate() {
            let line = Line {
                position: from + row,
                logits,
            };
            serde_json::to_writer(&mut *out, &line).map_err(|e| ModelError::Write(e.into()))?;
            out.write_all(b"\n").map_err(ModelError::Write)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_words_between_space_and_commas() {
        let cases: [(&str, Result<Vec<u32>, &str>); 5] = [
            ("1, 2,3\n 4\t5,", Ok(vec![1, 2, 3, 4, 5])),
            ("", Ok(vec![])),
            ("1 two", Err("\"two\" is not a token id")),
            ("-1", Err("\"-1\" is not a token id")),
            ("4294967296", Err("\"4294967296\" is not a token id")),
        ];
        for (text, expected) in cases {
            assert_eq!(
                parse_ids(text).map_err(|e| e.to_string()),
                expected.map_err(str::to_owned),
                "{text:?}"
            );
        }
    }
}
