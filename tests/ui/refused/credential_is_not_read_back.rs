//! What was handed in comes out by `reveal` only.
use anchorhold::Credential;
use secrecy::ExposeSecret;

fn read(credential: &Credential) -> &str {
    credential.expose_secret()
}

fn main() {}
