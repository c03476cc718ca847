//! Embeds the migrations again when one was added: the compiler sees only changes of those it knows.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
