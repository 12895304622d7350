mod qapi {
    qapi_macros::schema!("no_name.json", dialect = legacy);
}

fn main() {}
