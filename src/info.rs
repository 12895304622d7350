//! `info`: what an image is, alone or with its backing chain.

use block_core::graph::info::{Below, image_info};
use block_core::graph::policy::protocol_of;
use block_schema::types::ImageInfo;
use block_schema::{Value, Wire};

use crate::human;
use crate::image::Image;
use crate::opts::image::{ImageArgs, ImageName, OpenHow, one_name};
use crate::opts::output::Output;
use crate::order;
use crate::report::{Failure, Outcome, out, outln};
use crate::session::{self, ImplicitOpen, Session};

/// Show what an image is: format, sizes, backing file, what is specific to its format
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Format of the image; guessed if not given
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "human|json")]
    output: Output,
    /// Go on with the image's backing file, and its backing file, to the end
    #[arg(short, long)]
    backing_chain: bool,
    #[command(flatten)]
    image: ImageArgs,
    /// The image
    #[arg(value_name = "FILENAME")]
    filename: Vec<String>,
}

pub(crate) fn run(args: Args) -> Outcome {
    let filename = one_name(&args.filename)?;
    let name = ImageName::new(filename, args.format.as_deref(), &args.image)?;
    session::run(&args.image.session, async |session| {
        let infos = collect(session, name, &args).await?;
        print(&infos, &args);
        Ok(0)
    })
}

fn print(infos: &[ImageInfo], args: &Args) {
    match (args.output, infos) {
        (Output::Human, infos) => {
            let texts: Vec<String> = infos.iter().map(human::image_info).collect();
            out!("{}", texts.join("\n"));
        }
        (Output::Json, [info]) if !args.backing_chain => {
            outln!("{}", order::pretty_json(&info.encode()));
        }
        (Output::Json, infos) => {
            let list: Vec<Value> = infos.iter().map(Wire::encode).collect();
            outln!("{}", order::pretty_json(&Value::Array(list)));
        }
    }
}

async fn collect(
    session: &Session,
    name: ImageName,
    args: &Args,
) -> Result<Vec<ImageInfo>, Failure> {
    let mut infos: Vec<ImageInfo> = Vec::new();
    let mut next = Some(name);
    while let Some(name) = next {
        if infos.iter().any(|info| info.filename == name.text) {
            let text = format!("Backing file '{}' creates an infinite loop.", name.text);
            return Err(Failure::new(text));
        }
        let how = OpenHow::read(&args.image).header_only();
        let node_name = format!("image{}", infos.len());
        let image = Image::open(session, &name, &node_name, how).await?;
        let info = info_of(session, &image).await?;
        image.close().await?;
        next = if args.backing_chain {
            backing_of(&info, args.image.session.policy)?
        } else {
            None
        };
        infos.push(info);
    }
    Ok(infos)
}

async fn info_of(session: &Session, image: &Image) -> Result<ImageInfo, Failure> {
    let graph = session.layer().graph();
    let index = graph
        .index_of(image.id())
        .ok_or_else(|| Failure::new("the image is gone"))?;
    Ok(image_info(session.queue(), &graph, index, Below::Children).await?)
}

/// The backing file that an image names, when it may be followed.
fn backing_of(info: &ImageInfo, policy: ImplicitOpen) -> Result<Option<ImageName>, Failure> {
    let Some(full) = &info.full_backing_filename else {
        return Ok(None);
    };
    let allowed = match policy {
        ImplicitOpen::None => false,
        ImplicitOpen::Local => protocol_of(full).is_none(),
        ImplicitOpen::Any => true,
    };
    if !allowed {
        return Err(Failure::new(format!(
            "'{}' names '{full}', which --implicit-open={policy:?} does not allow",
            info.filename
        )));
    }
    Ok(Some(ImageName {
        text: full.clone(),
        format: info.backing_filename_format.clone(),
        is_options: false,
        encrypt: None,
        encrypt_formats: Vec::new(),
    }))
}
