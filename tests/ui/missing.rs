mod qapi {
    qapi_macros::schema!("no_such_file.json");
}

fn main() {}
