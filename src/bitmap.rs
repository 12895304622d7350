//! `bitmap`: adds, removes, clears, enables, disables and merges bitmaps that an image stores.
//!
//! What is asked for is done in the order of the command line; what was done before an error stays.

use block_core::bitmap::{BitmapName, NewBitmap};
use block_core::error::Error;
use clap::{Arg, ArgAction, ArgMatches};

use crate::image::Image;
use crate::opts::image::{Access, Backing, ImageArgs, ImageName, OpenHow, SessionArgs};
use crate::opts::number;
use crate::report::{Failure, Outcome, chain_text};
use crate::session::{self, Session};

/// Change the bitmaps that an image stores
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Format of the image; guessed if not given
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    #[command(flatten)]
    actions: Actions,
    /// Bytes that a bit of the added bitmap stands for
    #[arg(short, long, value_name = "SIZE")]
    granularity: Option<String>,
    /// Where the merged bitmap is, if not in the same image
    #[arg(short = 'b', long, value_name = "FILENAME")]
    source_file: Option<String>,
    /// Format of the image of the merged bitmap
    #[arg(short = 'F', long, value_name = "FMT")]
    source_format: Option<String>,
    /// FILENAME is a list of options (driver=qcow2,file.filename=…) and not a name
    #[arg(long)]
    image_opts: bool,
    #[command(flatten)]
    session: SessionArgs,
    /// The image, and the name of its bitmap
    #[arg(value_name = "FILENAME BITMAP")]
    words: Vec<String>,
}

/// What is to be done, in order.
#[derive(Clone, Debug, Default)]
struct Actions(Vec<Action>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Add,
    Remove,
    Clear,
    Enable,
    Disable,
    Merge(String),
}

impl Action {
    /// The options, and what they do.
    const FLAGS: [(&'static str, Action, &'static str); 5] = [
        (
            "add",
            Action::Add,
            "Add BITMAP, which tracks writes from then on",
        ),
        ("remove", Action::Remove, "Remove BITMAP"),
        ("clear", Action::Clear, "Forget what is dirty in BITMAP"),
        ("enable", Action::Enable, "Let BITMAP track writes"),
        (
            "disable",
            Action::Disable,
            "Let BITMAP track writes no longer",
        ),
    ];

    fn name(&self) -> &'static str {
        match self {
            Action::Add => "add",
            Action::Remove => "remove",
            Action::Clear => "clear",
            Action::Enable => "enable",
            Action::Disable => "disable",
            Action::Merge(_) => "merge",
        }
    }
}

impl clap::Args for Actions {
    fn augment_args(command: clap::Command) -> clap::Command {
        let repeated = |name: &'static str, help: &'static str| {
            let arg = Arg::new(name).long(name).action(ArgAction::Append);
            arg.help(help)
        };
        let flag = |(name, _, help)| repeated(name, help).num_args(0).default_missing_value("");
        let merge = repeated("merge", "Set in BITMAP what is dirty in another one");
        command
            .args(Action::FLAGS.map(flag))
            .arg(merge.value_name("SOURCE"))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Actions::augment_args(command)
    }
}

impl clap::FromArgMatches for Actions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Actions, clap::Error> {
        let mut found: Vec<(usize, Action)> = Vec::new();
        for (name, action, _) in Action::FLAGS {
            let places = matches.indices_of(name).into_iter().flatten();
            found.extend(places.map(|place| (place, action.clone())));
        }
        let places = matches.indices_of("merge").into_iter().flatten();
        let names = matches.get_many::<String>("merge").into_iter().flatten();
        found.extend(places.zip(names.cloned().map(Action::Merge)));
        found.sort_by_key(|(place, _)| *place);
        Ok(Actions(
            found.into_iter().map(|(_, action)| action).collect(),
        ))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Actions::from_arg_matches(matches)?;
        Ok(())
    }
}

pub(crate) fn run(args: Args) -> Outcome {
    let granularity = args.granularity.as_deref();
    let granularity = granularity.map(|text| number::size(text, "granularity"));
    // Tools have always taken 0 for the default.
    let granularity = granularity.transpose()?.filter(|&bytes| bytes > 0);
    check_combinations(&args, granularity)?;
    let [filename, bitmap] = args.words.as_slice() else {
        return Err(Failure::new("Expecting filename and bitmap name"));
    };
    let image_args = ImageArgs {
        image_opts: args.image_opts,
        force_share: false,
        session: args.session.clone(),
    };
    let name = ImageName::new(filename, args.format.as_deref(), &image_args)?;
    let how = OpenHow {
        backing: Backing::Ignore,
        ..OpenHow::read(&image_args).metadata_only()
    };
    session::run(&args.session, async |session| {
        let access = Access::Write;
        let image = Image::open(session, &name, "image", OpenHow { access, ..how }).await?;
        let source = match &args.source_file {
            Some(filename) => Some(open_source(session, filename, &args, how).await?),
            None => None,
        };
        let node = image.node()?;
        let node = node.node_name();
        let source = source.as_ref().unwrap_or(&image).node()?;
        let target = BitmapName { node, name: bitmap };
        for action in &args.actions.0 {
            let done = perform(session, action, target, source.node_name(), granularity).await;
            done.map_err(|error| {
                let failure = Failure::new(with_hint(&error));
                failure.while_doing(&format!(
                    "Operation {} on bitmap {bitmap} failed",
                    action.name()
                ))
            })?;
        }
        Ok(0)
    })
}

fn check_combinations(args: &Args, granularity: Option<u64>) -> Result<(), Failure> {
    let actions = &args.actions.0;
    let merges = actions.iter().any(|a| matches!(a, Action::Merge(_)));
    let refused = [
        (
            actions.is_empty(),
            "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge",
        ),
        (
            granularity.is_some() && !actions.contains(&Action::Add),
            "granularity only supported with --add",
        ),
        (
            args.source_format.is_some() && args.source_file.is_none(),
            "-F only supported with -b",
        ),
        (
            args.source_file.is_some() && !merges,
            "Merge bitmap source file only supported with --merge",
        ),
    ];
    match refused.iter().find(|(found, _)| *found) {
        Some((_, text)) => Err(Failure::new(*text)),
        None => Ok(()),
    }
}

async fn open_source(
    session: &Session,
    filename: &str,
    args: &Args,
    how: OpenHow,
) -> Result<Image, Failure> {
    let name = ImageName {
        text: filename.to_owned(),
        format: args.source_format.clone(),
        is_options: false,
        encrypt: None,
        encrypt_formats: Vec::new(),
    };
    Image::open(session, &name, "source", how).await
}

async fn perform(
    session: &Session,
    action: &Action,
    target: BitmapName<'_>,
    source: &str,
    granularity: Option<u64>,
) -> Result<(), Error> {
    let (layer, queue) = (session.layer(), session.queue());
    match action {
        Action::Add => {
            let new = NewBitmap {
                // What does not fit is no granularity either.
                granularity: granularity.map(|bytes| u32::try_from(bytes).unwrap_or(0)),
                persistent: true,
                disabled: false,
            };
            layer.block_dirty_bitmap_add(target, new).await
        }
        Action::Remove => layer.block_dirty_bitmap_remove(queue, target).await,
        Action::Clear => layer.block_dirty_bitmap_clear(target).await,
        Action::Enable => layer.block_dirty_bitmap_enable(target).await,
        Action::Disable => layer.block_dirty_bitmap_disable(target).await,
        Action::Merge(name) => {
            let source = BitmapName { node: source, name };
            layer.block_dirty_bitmap_merge(target, &[source]).await
        }
    }
}

/// The text of an error, with what to do about an inconsistent bitmap.
fn with_hint(error: &Error) -> String {
    let text = chain_text(error);
    if text.ends_with("is inconsistent and cannot be used") {
        return format!("{text}\nTry block-dirty-bitmap-remove to delete this bitmap from disk");
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    #[test]
    fn actions_keep_their_order() {
        let command = Args::augment_args(clap::Command::new("bitmap"));
        let words = "bitmap --add --clear --merge x --add --disable f --merge y b".split(' ');
        let mut matches = command.try_get_matches_from(words).unwrap();
        let args = Args::from_arg_matches_mut(&mut matches).unwrap();
        let merge = |name: &str| Action::Merge(name.to_owned());
        let want = [
            Action::Add,
            Action::Clear,
            merge("x"),
            Action::Add,
            Action::Disable,
            merge("y"),
        ];
        assert_eq!(args.actions.0, want);
        assert_eq!(args.words, ["f", "b"]);
    }
}
