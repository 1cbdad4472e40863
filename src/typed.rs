//! Options in files of others' making. One that is absent or null is none; one of another type is refused, since taken for
//! absent it would mean a default, and other numbers.

use serde_json::{Map, Value};

use crate::error::short;

/// What an option may be read as.
pub trait Typed<'a>: Sized {
    const WHAT: &'static str;
    fn of(value: &'a Value) -> Option<Self>;
}

macro_rules! typed {
    ($type:ty, $what:literal, $of:expr) => {
        impl<'a> Typed<'a> for $type {
            const WHAT: &'static str = $what;
            fn of(value: &'a Value) -> Option<Self> {
                $of(value)
            }
        }
    };
}

typed!(&'a str, "a text", Value::as_str);
typed!(bool, "true or false", Value::as_bool);
typed!(u64, "a whole number", Value::as_u64);
typed!(f64, "a number", Value::as_f64);
typed!(&'a [Value], "a list", |v: &'a Value| v.as_array().map(Vec::as_slice));
typed!(&'a Map<String, Value>, "an object", Value::as_object);

/// Returns an option by its name, or `None` where it is absent or null.
///
/// # Errors
/// It has another type. The message is a part of a sentence: "`k` is \"5\", not a whole number".
pub fn typed<'a, T: Typed<'a>>(value: Option<&'a Value>, name: &str) -> Result<Option<T>, String> {
    let Some(value) = value.filter(|v| !v.is_null()) else { return Ok(None) };
    T::of(value).map(Some).ok_or_else(|| format!("`{name}` is {}, not {}", short(&value.to_string()), T::WHAT))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn another_type_is_not_absent() {
        let map = json!({"k": "5", "on": 1, "none": null, "x": 2});
        assert_eq!(typed::<u64>(map.get("k"), "k"), Err("`k` is \"5\", not a whole number".to_owned()));
        assert_eq!(typed::<bool>(map.get("on"), "on"), Err("`on` is 1, not true or false".to_owned()));
        assert_eq!(typed::<&str>(map.get("none"), "none"), Ok(None));
        assert_eq!(typed::<&str>(map.get("gone"), "gone"), Ok(None));
        assert_eq!(typed::<f64>(map.get("x"), "x"), Ok(Some(2.0)));
    }
}
