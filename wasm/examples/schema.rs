//! Prints the JSON Schemas of all documents: `cargo run --example schema --features schema`.

fn main() {
    println!("{}", chalk_wasm::schema::document());
}
