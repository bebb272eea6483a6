//! Authority is never a default value.
use anchorhold::{Account, Backend, Connection, Session, Vault};

fn made_of_nothing<T: Default>() {}

fn main() {
    made_of_nothing::<Vault>();
    made_of_nothing::<Backend>();
    made_of_nothing::<Account>();
    made_of_nothing::<Connection>();
    made_of_nothing::<Session>();
}
