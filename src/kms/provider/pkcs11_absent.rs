//! In place of the provider `pkcs11` in a static build, which cannot load a token's module: says so where one is configured.

use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::super::KmsError;
use super::Provider;

/// A configuration that there cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Config {}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom(
            "this kprov is linked statically, and such a program cannot load a PKCS#11 module: use a build that is not, on the host that has the token",
        ))
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), String> {
        match *self {}
    }
}

pub(crate) fn start(config: &Config) -> Result<Arc<dyn Provider>, KmsError> {
    match *config {}
}

pub(crate) fn add_key(config: &Config) -> Result<String, KmsError> {
    match *config {}
}
