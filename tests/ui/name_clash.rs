mod qapi {
    qapi_macros::schema!("name_clash.json");
}

fn main() {}
