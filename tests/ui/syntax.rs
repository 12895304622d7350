mod qapi {
    qapi_macros::schema!("syntax.json");
}

fn main() {}
