//! Only a backend makes an account handle.
use anchorhold::Account;

fn build() -> Account {
    Account {}
}

fn main() {}
