mod qapi {
    qapi_macros::schema!("no_name.json", unknwon = closed);
}

mod twice {
    qapi_macros::schema!("no_name.json", unknown = closed, unknown = open);
}

mod word {
    qapi_macros::schema!("no_name.json", unknown = shut);
}

fn main() {}
