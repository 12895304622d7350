mod qapi {
    qapi_macros::schema!(schema);
}

fn main() {}
