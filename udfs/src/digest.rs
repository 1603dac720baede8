//! `safeguard_digest(text)`: what the verdict store knows a text by, for joins with its tables.
//!
//! Takes texts, gives the BLAKE3 of their bytes as 64 lower-case hex digits. An ordinary scalar function: nothing is asked.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, DocSection, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use std::sync::{Arc, LazyLock};

/// The function, for a registry.
pub(crate) fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(Digest {
        signature: Signature::string(1, Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Digest {
    signature: Signature,
}

impl ScalarUDFImpl for Digest {
    fn name(&self) -> &'static str {
        "safeguard_digest"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        // As the store's tables have their digests.
        Ok(DataType::Utf8View)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match &args.args[0] {
            ColumnarValue::Scalar(text) => {
                let digests = digests(&text.to_array()?)?;
                let digest = ScalarValue::try_from_array(&digests, 0)?;
                Ok(ColumnarValue::Scalar(digest))
            }
            ColumnarValue::Array(texts) => Ok(ColumnarValue::Array(digests(texts)?)),
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        static DOCUMENTATION: LazyLock<Documentation> = LazyLock::new(|| {
            let section = DocSection {
                include: true,
                label: "Safeguard",
                description: None,
            };
            let description =
                "The digest by which the verdict store knows a text: text_digest in its tables.";
            Documentation::builder(section, description, "safeguard_digest(text)")
                .with_argument("text", "what is judged")
                .build()
        });
        Some(&DOCUMENTATION)
    }
}

fn digests(texts: &ArrayRef) -> Result<ArrayRef> {
    let texts = cast(texts, &DataType::Utf8View)?;
    let texts = texts.as_string_view();
    let mut digests = StringViewBuilder::with_capacity(texts.len());
    for text in texts {
        match text {
            Some(text) => digests.append_value(blake3::hash(text.as_bytes()).to_hex().as_str()),
            None => digests.append_null(),
        }
    }
    Ok(Arc::new(digests.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{LargeStringArray, StringArray, StringViewArray};

    #[test]
    fn digests_are_those_of_the_store_for_every_type_of_text() {
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        let texts = [Some(""), None, Some("a")];
        let of_a = blake3::hash(b"a").to_hex();
        let want = StringViewArray::from(vec![Some(empty), None, Some(of_a.as_str())]);
        let arrays: [ArrayRef; 3] = [
            Arc::new(StringArray::from(texts.to_vec())),
            Arc::new(LargeStringArray::from(texts.to_vec())),
            Arc::new(StringViewArray::from(texts.to_vec())),
        ];
        for array in arrays {
            assert_eq!(digests(&array).unwrap().as_string_view(), &want);
        }
    }
}
