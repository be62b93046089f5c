//! What limits, priorities and hashes may look at of a request.
use crate::{Client, RouteName};
use http::request::Parts;

#[derive(Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) client: &'a Client,
    pub(crate) request: &'a Parts,
    /// The merged one of [`crate::path::normal`].
    pub(crate) path: &'a str,
    /// None: no route is attached.
    pub(crate) route: Option<&'a RouteName>,
}
