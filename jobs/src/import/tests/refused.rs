//! What cannot be imported is said and not tried again.

use windrow_queue::Decision;

use super::*;

#[tokio::test]
async fn each_mistake_is_buried_with_its_class_and_changes_nothing() {
    let mut desk = Desk::open().await;
    desk.config.max_file_bytes = 5000;
    let good = desk.write("good.csv", "phone\n+4930123456\n");
    desk.write("excel.xlsx", "PK\u{3}\u{4}");
    desk.write("large.csv", "x".repeat(5001));
    desk.write("empty.csv", "");
    let path = |path: &str| ImportFile::new(desk.project, path);
    for (args, class, said) in [
        (path("none.csv"), "file_not_found", "not in the import folder"),
        (path("../../etc/passwd"), "file_outside", "only files in it"),
        (path("/etc/passwd"), "file_outside", "only files in it"),
        (path("."), "file_refused", "not a regular file"),
        (path("large.csv"), "file_refused", "max_file_bytes = 5000"),
        (path("empty.csv"), "file_refused", "empty"),
        (path("excel.xlsx"), "file_refused", "CSV UTF-8"),
        (ImportFile { column: Some(Column::Name("fax".into())), ..good.clone() }, "file_refused", "no column \"fax\""),
        (ImportFile { delimiter: Some('|'), ..good.clone() }, "file_refused", "not a delimiter"),
        (ImportFile { default_region: Some("Germany".into()), ..good.clone() }, "invalid_region", "ISO 3166"),
        (ImportFile { supplier: Some(String::new()), ..good.clone() }, "invalid_supplier", "1 to 200"),
        (ImportFile { project_id: Uuid::nil(), ..good.clone() }, "unknown_project", "no project"),
    ] {
        let error = desk.import(&args).await.unwrap_err();
        assert_eq!((error.decision(), error.class()), (Decision::Bury, class), "{error}");
        assert!(error.message().contains(said), "{error}");
    }
    assert_eq!(count(&desk.pool, "SELECT count(*) FROM import").await, 0);
    assert_eq!(count(&desk.pool, "SELECT count(*) FROM phone_number").await, 0);
}

#[tokio::test]
async fn a_job_of_one_tenant_does_not_write_into_the_project_of_another() {
    let desk = Desk::open().await;
    let other = tenant(&desk.pool, "other").await;
    let file = desk.write("good.csv", "phone\n+4930123456\n");
    let (ctx, _) = attempt(&desk.pool, Some(&other), &file).await;
    let error = desk.handler().run(ctx, file).await.unwrap_err();
    assert_eq!((error.decision(), error.class()), (Decision::Bury, "unknown_project"));
    assert!(desk.numbers().await.is_empty());
}

#[tokio::test]
async fn a_folder_that_is_not_there_yet_is_tried_again() {
    let mut desk = Desk::open().await;
    let file = desk.write("bad.csv", "phone\nx\n");
    desk.config.error_directory = desk.folder.path().join("none");
    let error = desk.import(&file).await.unwrap_err();
    assert_eq!((error.decision(), error.class()), (Decision::Retry, "file_system"));
    desk.config.directory = desk.folder.path().join("none");
    let error = desk.import(&file).await.unwrap_err();
    assert_eq!((error.decision(), error.class()), (Decision::Retry, "file_system"));
    assert!(error.message().contains("set import.directory"), "{error}");
}

#[tokio::test]
async fn a_project_is_made_once_and_needs_a_tenant() {
    let desk = Desk::open().await;
    let mut connection = desk.pool.acquire().await.unwrap();
    let again = create_project(&mut connection, &desk.tenant, "spring").await.unwrap();
    assert_eq!(again.id, desk.project);
    assert_eq!(find_project(&desk.pool, &desk.tenant, "spring").await.unwrap(), Some(again));
    let nobody = Tenant::new("nobody").unwrap();
    assert!(matches!(create_project(&mut connection, &nobody, "x").await, Err(ProjectError::UnknownTenant(_))));
    assert!(matches!(create_project(&mut connection, &desk.tenant, "").await, Err(ProjectError::NameLength(0))));
    assert_eq!(list_projects(&desk.pool, None, None, 10).await.unwrap().len(), 1);
}
