//! `windrow import`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use uuid::Uuid;
use windrow_jobs::import::{Column, ImportFile, import_progress};
use windrow_queue::{JobId, NewJob, Tenant};

use crate::{
    context::Context,
    exit::Failure,
    job::{self, WaitArgs},
    project,
};

/// A file to import.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The file. Workers read only what is in the folder import.directory: a file from elsewhere is copied there first.
    file: PathBuf,
    /// The project that gets the numbers: its name or id.
    #[arg(long)]
    project: String,
    /// Whose project it is, where several tenants have one of that name.
    #[arg(long)]
    tenant: Option<Tenant>,
    /// Where the numbers come from, for the record.
    #[arg(long)]
    supplier: Option<String>,
    /// The column with the numbers: its name, or its place (1 is the first). Else it is found out.
    #[arg(long)]
    column: Option<String>,
    /// Whether the first row is a header. Else it is found out.
    #[arg(long, value_name = "BOOL")]
    header: Option<bool>,
    /// The country of numbers that are written without one, such as DE.
    #[arg(long, value_name = "COUNTRY")]
    region: Option<String>,
    /// What stands between two fields. Else it is found out.
    #[arg(long)]
    delimiter: Option<char>,
    /// The path is that of a file on the workers' machine: do not look for it here.
    #[arg(long)]
    remote: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

pub(crate) async fn run(context: &Context, args: ImportArgs) -> anyhow::Result<()> {
    let database = context.database()?;
    let project = project::find(&database, &args.project, args.tenant.as_ref()).await?;
    let path = if args.remote {
        text(&args.file)?
    } else {
        let directory = context.loaded.settings.import.directory.clone();
        let file = args.file;
        tokio::task::spawn_blocking(move || place(&file, &directory)).await??
    };
    let place_or_name = |column: String| column.parse().map_or(Column::Name(column), Column::Place);
    let wanted = ImportFile {
        column: args.column.map(place_or_name),
        has_header: args.header,
        default_region: args.region,
        delimiter: args.delimiter,
        supplier: args.supplier,
        ..ImportFile::new(project.id, path)
    };
    let job = NewJob::new(&wanted)?.tenant(Tenant::new(project.tenant)?);
    let id = job.id;
    job::send(context, args.wait.plan(job, true), &args.wait).await?;
    if args.wait.is_asked() { summary(context, id).await } else { Ok(()) }
}

/// What came of it, for people: the job's own record says only that it completed.
async fn summary(context: &Context, id: JobId) -> anyhow::Result<()> {
    let Some(done) = import_progress(&context.database()?, id).await? else { return Ok(()) };
    context.output.record(
        &done,
        &[
            ("rows", done.rows_read.to_string()),
            ("inserted", done.inserted.to_string()),
            ("duplicates", done.duplicates.to_string()),
            ("rejected", done.rejected.to_string()),
            ("rejected rows are in", done.error_file.clone().unwrap_or_default()),
        ],
    )
}

fn text(path: &Path) -> anyhow::Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Failure::usage(format!("the path {} is not UTF-8", path.display())))
}

/// The path within the import folder, into which a file from elsewhere is copied.
fn place(file: &Path, directory: &Path) -> anyhow::Result<String> {
    let unusable = |error: io::Error| Failure::usage(format!("cannot read {}: {error}", file.display()));
    let real = file.canonicalize().map_err(unusable)?;
    if !real.is_file() {
        return Err(Failure::usage(format!("{} is not a file", file.display())));
    }
    fs::create_dir_all(directory)
        .with_context(|| format!("import.directory, {}, cannot be made", directory.display()))?;
    let directory = directory.canonicalize()?;
    if let Ok(inside) = real.strip_prefix(&directory) {
        return text(inside);
    }
    let name = real.file_name().map_or_else(|| "import.csv".into(), |name| name.to_string_lossy().into_owned());
    let name = format!("{}-{name}", Uuid::new_v4().simple());
    // Under its own name only when it is whole.
    let (target, partial) = (directory.join(&name), directory.join(format!(".{name}.partial")));
    let copied = fs::copy(&real, &partial).and_then(|_| fs::rename(&partial, &target));
    copied.with_context(|| format!("{} cannot be copied to {}", file.display(), target.display()))?;
    eprintln!("copied to {}", target.display());
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_the_import_folder_stays_and_one_from_elsewhere_is_copied() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directory = folder.path().join("made/now");
        let outside = elsewhere.path().join("numbers.csv");
        fs::write(&outside, "phone\n+4930123456\n").unwrap();
        let copied = place(&outside, &directory).unwrap();
        assert!(copied.ends_with("-numbers.csv"), "{copied}");
        assert_eq!(fs::read(directory.join(&copied)).unwrap(), fs::read(&outside).unwrap());
        assert_eq!(place(&directory.join(&copied), &directory).unwrap(), copied);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        let missing = place(Path::new("/none/such.csv"), &directory).unwrap_err().to_string();
        assert!(missing.contains("/none/such.csv"), "{missing}");
        assert!(place(elsewhere.path(), &directory).unwrap_err().to_string().contains("not a file"));
    }
}
