//! `brightmatter init`: a studio, a game and a first quest to begin with.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bm_bootstrap::Context;

use crate::error::CliError;
use crate::studios_file::{self, NewStudio};
use crate::{apply, hints, output, starter};

/// Makes what is missing of a studio, a game and a quest file called `name`, applies the file and
/// prints a command that sends an event. Run again it changes nothing of what is there.
pub(crate) async fn run(ctx: &Context, name: &str) -> Result<ExitCode, CliError> {
    if !starter::is_name(name) {
        return Err(CliError::Name);
    }
    let studios = ctx
        .vars
        .get("BM_STUDIOS_FILE")
        .map(PathBuf::from)
        .ok_or(CliError::NoStudiosFile)?;
    let studio = NewStudio {
        id: name.to_owned(),
        name: name.to_owned(),
        generous: false,
    };
    let keys = studios_file::ensure(&studios, &studio)?;
    let what = if keys.added {
        "added with fresh keys"
    } else {
        "there already, its keys are kept"
    };
    output::line(format_args!(
        "studio {name}: {what} ({})",
        studios.display()
    ))?;

    let file = PathBuf::from(format!("{name}-quests.json"));
    let made = create(&file, &starter::definitions(name, name, name))?;
    let what = if made { "made" } else { "there already, kept" };
    output::line(format_args!("file   {}: {what}", file.display()))?;
    // What is saved counts, published or not: the rest is of use all the same.
    let published = match apply::run(ctx, &file).await {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error @ CliError::NotPublished(_)) => Err(error),
        Err(error) => return Err(error),
    };

    let gateway = starter::gateway_url(&ctx.vars);
    let curl = starter::curl(&gateway, keys.client.as_deref(), name);
    output::line(format_args!(
        "\nThe file {0} says which events count and what they earn:\n{1}\nEdit it and run\n\n  \
         {me} apply {0}\n\nWhat is saved counts for every event from then on; docs/definitions.md \
         explains every field.\n\nSend an event (three complete the quest):\n\n{curl}\n\nSee what \
         becomes of it:\n\n  {me} watch --game {name}",
        file.display(),
        starter::EXPLAINED,
        me = hints::me(),
    ))?;
    published
}

/// Writes a file that is not there yet; says whether it did.
fn create(path: &Path, text: &str) -> Result<bool, CliError> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(CliError::File {
            action: "write",
            path: path.to_owned(),
            source,
        }),
    }
}
