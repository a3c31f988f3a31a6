//! Files of every sort, read to their end.

use super::*;

#[tokio::test]
async fn every_row_is_inserted_a_duplicate_or_rejected_with_its_line() {
    let desk = Desk::open().await;
    let file = desk.write(
        "numbers.csv",
        "\u{feff}Name,Phone,City\r\n\
         Anna,+49 30 123456,Berlin\r\n\
         \"Bert, jr.\",\"+49 (0)30/123457\",Bonn\r\n\
         \r\n\
         Cara,+4930123456,\"two\r\nlines\"\r\n\
         Dora,=1+1,x\r\n\
         Emil\r\n\
         Fred,030 123458,y\r\n\
         Gert,,z\r\n\
         Hans,\"+12125550123,w\r\n\
         Ines,+39 02 36618300,v",
    );
    let done = desk.import(&file).await.unwrap();
    assert_eq!(done.state, ImportState::Done);
    assert_eq!((done.rows_read, done.inserted, done.duplicates, done.rejected), (9, 3, 1, 5));
    assert_eq!(done.bytes_done, done.bytes_total);
    assert_eq!(desk.numbers().await, [4930123456, 4930123457, 390236618300]);
    let expected =
        [(7, "not_a_number"), (8, "missing_column"), (9, "no_country"), (10, "empty"), (11, "unclosed_quote")];
    assert_eq!(rejected(&done), expected.map(|(line, reason)| (line, reason.to_owned())));
    let raw = std::fs::read_to_string(done.error_file.unwrap()).unwrap();
    assert!(raw.contains("\"'=1+1\""), "a formula is shown as text: {raw}");
    let regions: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT region FROM phone_number ORDER BY 1").fetch_all(&desk.pool).await.unwrap();
    assert_eq!(regions, ["DE", "IT"]);
}

#[tokio::test]
async fn a_second_import_of_the_same_numbers_inserts_none_and_another_project_has_its_own() {
    let desk = Desk::open().await;
    let (text, good, bad) = mixed(450);
    let file = desk.write("numbers.csv", text);
    let first = desk.import(&file).await.unwrap();
    assert_eq!((first.inserted, first.rejected), (good.len() as i64, bad.len() as i64));
    let second = desk.import(&file).await.unwrap();
    assert_eq!((second.inserted, second.duplicates), (0, first.inserted + first.duplicates));
    assert_eq!(desk.numbers().await, good);
    assert_ne!(first.error_file, second.error_file);
    assert_eq!(rejected(&first), rejected(&second));

    let other = create_project(&mut desk.pool.acquire().await.unwrap(), &desk.tenant, "autumn").await.unwrap();
    let third = desk.import(&ImportFile { project_id: other.id, ..file }).await.unwrap();
    assert_eq!(third.inserted, first.inserted);
    let listed = list_imports(&desk.pool, Some(desk.project), 10).await.unwrap();
    assert_eq!(listed.iter().map(|import| import.id).collect::<Vec<_>>(), [second.id, first.id]);
}

#[tokio::test]
async fn two_imports_of_the_same_numbers_at_once_have_each_number_once() {
    let desk = Desk::open().await;
    let (text, good, _) = mixed(2000);
    let reversed: String = std::iter::once("name;phone")
        .chain(text.lines().skip(1).collect::<Vec<_>>().into_iter().rev())
        .map(|line| format!("{line}\n"))
        .collect();
    let (one, two) = (desk.write("one.csv", text), desk.write("two.csv", reversed));
    let (first, second) = tokio::join!(desk.import(&one), desk.import(&two));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.inserted + second.inserted, good.len() as i64);
    assert_eq!(desk.numbers().await, good);
}

#[tokio::test]
async fn national_numbers_are_read_with_the_default_region() {
    let desk = Desk::open().await;
    let file =
        desk.write("numbers.txt", b"Stra\xdfe\tTel.\nM\xfcller\t030 123456\nA\t0039 02 36618300\nB\t+1 212 555 0123\n");
    let done = desk.import(&ImportFile { default_region: Some("de".into()), ..file }).await.unwrap();
    assert_eq!((done.inserted, done.rejected), (3, 0));
    assert_eq!(desk.numbers().await, [4930123456, 12125550123, 390236618300]);
    assert_eq!(done.error_file, None);
}

#[tokio::test]
async fn a_header_alone_is_an_import_of_nothing() {
    let desk = Desk::open().await;
    let done = desk.import(&desk.write("numbers.csv", "phone\n\n  \n")).await.unwrap();
    assert_eq!((done.state, done.rows_read, done.bytes_done), (ImportState::Done, 0, done.bytes_total));
}

#[tokio::test]
async fn rejected_rows_go_to_the_configured_folder_and_metrics_count_what_is_committed() {
    let mut desk = Desk::open().await;
    let errors = tempfile::tempdir().unwrap();
    desk.config.error_directory = errors.path().to_owned();
    let (text, good, bad) = mixed(250);
    let file = desk.write("numbers.csv", text);
    let metrics = ImportMetrics::new(&Registry::new());
    let handler = ImportFileHandler::new(desk.config.clone(), desk.pool.clone(), metrics.clone());
    let (ctx, id) = attempt(&desk.pool, Some(&desk.tenant), &file).await;
    handler.run(ctx, file).await.unwrap();
    let done = desk.progress(id).await;
    assert!(PathBuf::from(done.error_file.as_ref().unwrap()).starts_with(errors.path()));
    assert_eq!(rejected(&done).into_iter().map(|(line, _)| line).collect::<Vec<_>>(), bad);
    let rows = |result: &str| metrics.rows.with_label_values(&[result]).get();
    assert_eq!((rows("inserted"), rows("rejected")), (good.len() as u64, bad.len() as u64));
    assert_eq!(rows("inserted") + rows("duplicate") + rows("rejected"), 250);
    assert_eq!((metrics.finished.get(), metrics.batch.get_sample_count()), (1, 3));
}
