//! `info`: what an image is, alone or with its backing chain.

use block_core::engine::LeafFile;
use block_core::graph::perm::Role;
use block_core::graph::policy::protocol_of;
use block_core::graph::{Graph, NodeIndex};
use block_schema::types::{BlockChildInfo, ImageInfo};
use block_schema::{Value, Wire};

use crate::human;
use crate::image::Image;
use crate::opts::image::{Backing, ImageArgs, ImageName, OpenHow, one_name};
use crate::opts::output::Output;
use crate::report::{Failure, Outcome};
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
    session::run(args.image.implicit.policy, async |session| {
        let infos = collect(session, name, &args).await?;
        print(&infos, &args);
        Ok(0)
    })
}

fn print(infos: &[ImageInfo], args: &Args) {
    match (args.output, infos) {
        (Output::Human, infos) => {
            let texts: Vec<String> = infos.iter().map(human::image_info).collect();
            print!("{}", texts.join("\n"));
        }
        (Output::Json, [info]) if !args.backing_chain => {
            println!("{}", info.encode().to_pretty_json());
        }
        (Output::Json, infos) => {
            let list: Vec<Value> = infos.iter().map(Wire::encode).collect();
            println!("{}", Value::Array(list).to_pretty_json());
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
        let how = OpenHow {
            backing: Backing::Ignore,
            ..OpenHow::read(&args.image)
        };
        let node_name = format!("image{}", infos.len());
        let image = Image::open(session, &name, &node_name, how).await?;
        let graph = session.layer().graph();
        let index = graph.index_of(image.id());
        let info = index.map(|index| image_info(&graph, index));
        drop(graph);
        image.close().await?;
        let Some(info) = info else { break };
        next = if args.backing_chain {
            backing_of(&info, args.image.implicit.policy)?
        } else {
            None
        };
        infos.push(info);
    }
    Ok(infos)
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
    }))
}

/// What a node is, with its children.
pub(crate) fn image_info(graph: &Graph, index: NodeIndex) -> ImageInfo {
    let node = &graph.entry(index).node;
    let driver = node.driver();
    let filename = node.facts().filename.clone();
    let mut info = ImageInfo::new(
        filename,
        driver.format_name().to_owned(),
        signed(graph.len(index)),
    );
    let described = driver.describe();
    info.cluster_size = described.cluster_size.map(signed);
    info.encrypted = described.encrypted.then_some(true);
    info.compressed = described.compressed.then_some(true);
    info.format_specific = described.format_specific;
    info.snapshots = (!described.snapshots.is_empty()).then_some(described.snapshots);
    if let Some(backing) = described.backing {
        info.full_backing_filename = Some(name_from(&info.filename, &backing.filename));
        info.backing_filename = Some(backing.filename);
        info.backing_filename_format = backing.format;
    }
    info.actual_size = disk_size(graph, index);
    info.dirty_flag = described.dirty.or(info.actual_size.map(|_| false));
    info.children = Some(children_info(graph, index));
    info
}

fn children_info(graph: &Graph, index: NodeIndex) -> Vec<BlockChildInfo> {
    let edges = graph.entry(index).edges.iter();
    let stored = edges.filter(|edge| edge.role != Role::Cow);
    stored
        .map(|edge| BlockChildInfo {
            name: edge.name.clone(),
            info: image_info(graph, edge.child),
        })
        .collect()
}

/// Bytes that a node's files occupy; `None` for what is not a file.
fn disk_size(graph: &Graph, index: NodeIndex) -> Option<i64> {
    let entry = graph.entry(index);
    if let Some(leaf) = entry.node.driver().leaf() {
        return match leaf.file() {
            LeafFile::Host(fd) => Some(rustix::fs::fstat(fd).ok()?.st_blocks * 512),
            LeafFile::Sim(_) => None,
        };
    }
    let stored = entry.edges.iter().filter(|edge| edge.role != Role::Cow);
    let mut sizes = stored.map(|edge| disk_size(graph, edge.child)).peekable();
    sizes.peek()?;
    sizes.sum()
}

/// A name inside an image as it must be opened: beside the image unless it says otherwise.
pub(crate) fn name_from(image: &str, name: &str) -> String {
    if name.starts_with('/') || protocol_of(name).is_some() {
        return name.to_owned();
    }
    match image.rfind('/') {
        Some(end) => format!("{}{name}", &image[..=end]),
        None => name.to_owned(),
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
