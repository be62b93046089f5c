//! Why a resource is not as proto/route.proto says, and where in it.

/// The place from the outside in, then the reason: "ports[0].producer.rules[2]: ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Invalid(String);

pub(crate) type Parsed<T> = Result<T, Invalid>;

impl Invalid {
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Self(format!(": {}", reason.into()))
    }

    /// Puts the place before what is there already.
    fn within(self, place: &str) -> Self {
        let dot = if self.0.starts_with([':', '[']) { "" } else { "." };
        Self(format!("{place}{dot}{}", self.0))
    }
}

pub(crate) trait At<T> {
    fn at(self, place: &str) -> Parsed<T>;
}

impl<T> At<T> for Parsed<T> {
    fn at(self, place: &str) -> Self {
        self.map_err(|invalid| invalid.within(place))
    }
}

/// Each of a repeated field, with its index as the place.
pub(crate) fn each<'a, T: 'a, R>(
    field: &str,
    items: impl IntoIterator<Item = &'a T>,
    parse: impl Fn(&'a T) -> Parsed<R>,
) -> Parsed<Box<[R]>> {
    items.into_iter().enumerate().map(|(index, item)| parse(item).at(&format!("{field}[{index}]"))).collect()
}

/// A field that must be set.
pub(crate) fn set<T>(field: &str, value: Option<T>) -> Parsed<T> {
    value.ok_or_else(|| Invalid::because("is not set").within(field))
}
