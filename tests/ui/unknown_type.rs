mod qapi {
    qapi_macros::schema!("unknown_type.json");
}

fn main() {}
