"""SQLAlchemy 2 against the server, with four drivers: psycopg, psycopg2, pg8000 and asyncpg.

Each probe runs once a driver and is named NAME_DRIVER. The Inspector's answers are what `metadata.reflect()`, Alembic,
Superset and pandas build upon.

| line of the table of what failed before | probes |
|---|---|
| any statement: version() must be PostgreSQL's | connect |
| reflection: to_regtype, pg_get_serial_sequence, LIKE .. ESCAPE, unnest of catalog arrays | columns, schemas, keys, indexes, reflect |
| INSERT .. RETURNING | returning |
| INSERT with text parameters, DDL and UPDATE tags | create_insert_update_delete, object_relational |
| named cursor | server_side_cursor |
"""

import asyncio
import datetime as dt
import decimal

import sqlalchemy as sa
from probes import SERVER, Failed, add, holds, main, same, works_or_refused
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import create_async_engine

DRIVERS = ("psycopg", "psycopg2", "pg8000", "asyncpg")
PROBES = []


def engine_of(driver, **keywords):
    url = sa.URL.create(f"postgresql+{driver}", username=SERVER.user, host=SERVER.host, port=SERVER.port, database=SERVER.db)
    return (create_async_engine if driver == "asyncpg" else sa.create_engine)(url, **keywords)


def run(driver, work):
    """`work(connection)` on a connection of the driver, inside a transaction that is committed."""
    engine = engine_of(driver)
    if driver != "asyncpg":
        with engine.begin() as connection:
            work(connection)
        engine.dispose()
        return

    async def later():
        async with engine.begin() as connection:
            await connection.run_sync(work)
        await engine.dispose()

    asyncio.run(later())


def each(function):
    PROBES.append(function)
    return function


def posts():
    return sa.table("posts", sa.column("id", sa.BigInteger), sa.column("author", sa.BigInteger), sa.column("body", sa.Text), sa.column("created_at", sa.DateTime))


def made(metadata, name="sa_made"):
    return sa.Table(name, metadata, sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
                    sa.Column("label", sa.Text), sa.Column("score", sa.Float(53)), sa.Column("at", sa.DateTime), sa.Column("n", sa.Numeric(12, 3)))


@each
def connect(c):
    same(c.execute(sa.text("SELECT 1")).scalar(), 1)
    holds(c.dialect.server_version_info >= (15,), c.dialect.server_version_info)
    same(c.dialect.default_schema_name, "public")


@each
def text_and_bindparams(c):
    same(c.execute(sa.text("SELECT body FROM posts WHERE id = :id"), {"id": 7}).scalar(), "post number 7")
    found = c.execute(sa.text("SELECT id FROM posts WHERE id IN :ids ORDER BY id").bindparams(sa.bindparam("ids", expanding=True)), {"ids": [3, 1, 2]})
    same(found.scalars().all(), [1, 2, 3])
    same(c.execute(sa.text("SELECT count(*) FROM posts WHERE created_at < :t").bindparams(t=dt.datetime(2026, 1, 1, 0, 5))).scalar(), 4)
    same(c.execute(sa.text("SELECT CAST(:x AS TEXT)"), {"x": "é😀"}).scalar(), "é😀")


@each
def select(c):
    p = posts()
    found = c.execute(sa.select(p.c.id, sa.func.upper(p.c.body)).where(p.c.body.like("%number 1_"), p.c.created_at > dt.datetime(2026, 1, 1)).order_by(p.c.id.desc()).limit(2))
    same([tuple(row) for row in found], [(19, "POST NUMBER 19"), (18, "POST NUMBER 18")])
    found = c.execute(sa.select(p.c.author, sa.func.count().label("n")).group_by(p.c.author).having(sa.func.count() > 2857).order_by(p.c.author))
    same([tuple(row) for row in found], [(1, 2858), (2, 2857)][:1])
    one, two = p.alias("one"), p.alias("two")
    found = c.execute(sa.select(one.c.id, two.c.id).join_from(one, two, one.c.id == two.c.id + 1).where(one.c.id == 5))
    same([tuple(row) for row in found], [(5, 4)])
    same(c.execute(sa.select(sa.func.row_number().over(order_by=p.c.id)).order_by(p.c.id).limit(1)).scalar(), 1)
    same(c.execute(sa.select(sa.exists().where(p.c.id == 1))).scalar(), True)
    same(c.execute(sa.select(sa.case((p.c.id < 5, "low"), else_="high")).where(p.c.id == 9)).scalar(), "high")
    same(tuple(c.execute(sa.select(sa.literal(1).label("a"), sa.literal("x").label("b"), sa.null())).one()), (1, "x", None))
    cte = sa.select(p.c.id).where(p.c.id < 4).cte("few")
    same(c.execute(sa.select(sa.func.count()).select_from(cte)).scalar(), 3)
    same(c.execute(sa.union_all(sa.select(p.c.id).where(p.c.id == 1), sa.select(p.c.id).where(p.c.id == 2))).all().__len__(), 2)


@each
def create_insert_update_delete(c):
    metadata, p = sa.MetaData(), posts()
    table = made(metadata)
    metadata.drop_all(c)
    metadata.create_all(c)
    metadata.create_all(c)
    row = {"id": 1, "label": "é", "score": 0.1, "at": dt.datetime(2026, 1, 2, 3, 4, 5, 6), "n": decimal.Decimal("1.500")}
    c.execute(sa.insert(table), row)
    c.execute(sa.insert(table), [{**row, "id": at, "label": None} for at in range(2, 30)])
    same(tuple(c.execute(sa.select(table).where(table.c.id == 1)).one()), tuple(row.values()))
    same(c.execute(sa.update(table).where(table.c.id < 3).values(label="new")).rowcount, 2)
    same(c.execute(sa.delete(table).where(table.c.label.is_(None))).rowcount, 27)
    same(c.execute(sa.select(table.c.id).order_by(table.c.id)).scalars().all(), [1, 2])
    c.execute(sa.insert(table).from_select(["id", "label"], sa.select(p.c.id, p.c.body).where(p.c.id.between(5, 6))))
    same(c.execute(sa.select(sa.func.count()).select_from(table)).scalar(), 4)
    metadata.drop_all(c)


@each
def returning(c):
    table = sa.table("lab", sa.column("id"), sa.column("label"))

    def call():
        with c.begin_nested():
            same(c.execute(sa.insert(table).values(id=1, label="x").returning(table.c.id)).scalar(), 1)

    works_or_refused(call)
    same(c.execute(sa.text("SELECT 1")).scalar(), 1)


@each
def object_relational(c):
    class Base(orm.DeclarativeBase):
        pass

    class Note(Base):
        __tablename__ = "sa_notes"
        id: orm.Mapped[int] = orm.mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
        body: orm.Mapped[str]
        author: orm.Mapped[int | None] = orm.mapped_column(sa.BigInteger)

    Base.metadata.drop_all(c)
    Base.metadata.create_all(c)
    with orm.Session(c) as session:
        session.add_all([Note(id=at, body=f"note {at}", author=None if at % 2 else 1) for at in range(20)])
        session.flush()
        note = session.get(Note, 7)
        same(note.body, "note 7")
        note.body = "changed"
        session.flush()
        session.expire_all()
        same(session.scalars(sa.select(Note.id).where(Note.body == "changed")).all(), [7])
        session.delete(note)
        session.flush()
        same(session.scalar(sa.select(sa.func.count()).select_from(Note).where(Note.author.is_(None))), 9)
        session.commit()
    Base.metadata.drop_all(c)


@each
def schemas(c):
    names = sa.inspect(c).get_schema_names()
    holds("public" in names and "information_schema" in names and "pg_catalog" not in names, names)


@each
def tables(c):
    inspector = sa.inspect(c)
    names = inspector.get_table_names()
    holds({"posts", "kinds", "lab"} <= set(names), names)
    same(sorted(inspector.get_table_names(schema="public")), sorted(names))
    same(inspector.get_table_names(schema="nope"), [])
    same((inspector.has_table("posts"), inspector.has_table("nope"), inspector.has_schema("public"), inspector.has_schema("nope")), (True, False, True, False))
    same(inspector.get_temp_table_names(), [])
    same(inspector.get_materialized_view_names(), [])
    same(inspector.has_sequence("nope"), False)
    same(inspector.get_sequence_names(), [])


@each
def views(c):
    c.execute(sa.text("DROP VIEW IF EXISTS sa_view"))
    c.execute(sa.text("CREATE VIEW sa_view AS SELECT id, body FROM posts WHERE id < 5"))
    inspector = sa.inspect(c)
    same(inspector.get_view_names(), ["sa_view"])
    holds("posts" in inspector.get_view_definition("sa_view"), "no definition")
    same([one["name"] for one in inspector.get_columns("sa_view")], ["id", "body"])
    same(inspector.has_table("sa_view"), True)
    c.execute(sa.text("DROP VIEW sa_view"))


@each
def columns(c):
    inspector = sa.inspect(c)
    found = inspector.get_columns("kinds")
    same([(one["name"], str(one["type"]).replace("TIMESTAMP WITHOUT TIME ZONE", "TIMESTAMP")) for one in found],
         [("i2", "SMALLINT"), ("i4", "INTEGER"), ("i8", "BIGINT"), ("f4", "REAL"), ("f8", "DOUBLE PRECISION"), ("n", "NUMERIC(12, 3)"),
          ("t", "TEXT"), ("b", "BYTEA"), ("ok", "BOOLEAN"), ("d", "DATE"), ("tm", "TIME"), ("ts", "TIMESTAMP"), ("tz", "TIMESTAMP")])
    same([one["nullable"] for one in found], [True] * 13)
    same([found[-2]["type"].timezone, found[-1]["type"].timezone], [False, True])
    same([one["default"] for one in found], [None] * 13)
    try:
        inspector.get_columns("nope")
    except sa.exc.NoSuchTableError:
        return
    raise Failed("columns of no table")


@each
def keys(c):
    inspector = sa.inspect(c)
    same(inspector.get_pk_constraint("posts")["constrained_columns"], [])
    same(inspector.get_foreign_keys("posts"), [])
    same(inspector.get_unique_constraints("posts"), [])
    same(inspector.get_check_constraints("posts"), [])
    same(inspector.get_table_comment("posts"), {"text": None})


@each
def indexes(c):
    same(sa.inspect(c).get_indexes("posts"), [])


@each
def types_and_oids(c):
    inspector = sa.inspect(c)
    same(inspector.get_enums(), [])
    same(inspector.get_domains(), [])
    holds(inspector.get_table_oid("posts") > 0, "oid")


@each
def reflect(c):
    metadata = sa.MetaData()
    metadata.reflect(c, only=["posts", "lab"])
    same(sorted(metadata.tables), ["lab", "posts"])
    table = metadata.tables["posts"]
    same(tuple(c.execute(sa.select(table.c.id, table.c.body).where(table.c.id == 4)).one()), (4, "post number 4"))
    everything = sa.MetaData()
    everything.reflect(c, views=True)
    holds({"posts", "kinds", "lab"} <= set(everything.tables), sorted(everything.tables))


@each
def transactions(c):
    p = posts()
    nested = c.begin_nested()
    try:
        c.execute(sa.text("SELECT nope FROM posts"))
    except sa.exc.DBAPIError:
        nested.rollback()
    else:
        raise Failed("no error")
    same(c.execute(sa.select(sa.func.count()).select_from(p)).scalar(), 20000)


def isolation(driver):
    if driver == "asyncpg":
        return
    engine = engine_of(driver)
    for level in ("AUTOCOMMIT", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
        with engine.connect().execution_options(isolation_level=level) as c:
            same(c.execute(sa.text("SELECT 1")).scalar(), 1)
            if level != "AUTOCOMMIT":
                same(c.get_isolation_level(), level)
    with engine.connect() as c:
        same(c.default_isolation_level, "READ COMMITTED")
    engine.dispose()


def server_side_cursor(driver):
    if driver == "asyncpg":
        async def later():
            engine = engine_of(driver)
            async with engine.connect() as c:
                count = 0
                async for _ in await c.stream(sa.text("SELECT id FROM posts ORDER BY id")):
                    count += 1
                same(count, 20000)
            await engine.dispose()

        asyncio.run(later())
        return
    engine = engine_of(driver)
    with engine.connect() as c:
        found = c.execution_options(stream_results=True, yield_per=512).execute(sa.text("SELECT id FROM posts WHERE id > :x ORDER BY id"), {"x": 10})
        same(sum(len(part) for part in found.partitions()), 19990)
    engine.dispose()


def pool_ping(driver):
    """A pool that tests its connections, and a connection that was lost."""
    if driver == "asyncpg":
        return
    engine = engine_of(driver, pool_pre_ping=True, pool_size=1)
    for _ in range(3):
        with engine.connect() as c:
            same(c.execute(sa.text("SELECT 1")).scalar(), 1)
    engine.dispose()


for driver in DRIVERS:
    for function in PROBES:
        add(f"{function.__name__}_{driver}", lambda driver=driver, function=function: run(driver, function))
    for function in (isolation, server_side_cursor, pool_ping):
        add(f"{function.__name__}_{driver}", lambda driver=driver, function=function: function(driver))

if __name__ == "__main__":
    main(__doc__)
