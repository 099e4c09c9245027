"""What programs do with SQLAlchemy: over psycopg with a connection for each use and with a pool of its own, and over asyncpg."""

import asyncio

import sqlalchemy as sa
from sqlalchemy import orm, pool
from sqlalchemy.ext.asyncio import create_async_engine

from report import Report, equal, settings
from urls import asyncpg_tls, libpq_tls

URL, CA, CONCURRENT = settings()
LOCATION = URL.partition("://")[2]
SESSIONS = 12


class Base(orm.DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "check_sqlalchemy_author"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(unique=True)
    tags: orm.Mapped[dict] = orm.mapped_column(sa.JSON)
    books: orm.Mapped[list["Book"]] = orm.relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "check_sqlalchemy_book"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str]
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey(Author.id))
    author: orm.Mapped[Author] = orm.relationship(back_populates="books")


def engine(poolclass, **options):
    return sa.create_engine(f"postgresql+psycopg://{LOCATION}", poolclass=poolclass, connect_args=libpq_tls(CA), **options)


ENGINES = {"null_pool": engine(pool.NullPool), "queue_pool": engine(pool.QueuePool, pool_size=3, max_overflow=2, pool_timeout=60, pool_pre_ping=True)}


def checks_of(name, bind):
    """The checks that every synchronous engine has."""

    def models():
        Base.metadata.drop_all(bind)
        Base.metadata.create_all(bind)
        with orm.Session(bind) as session, session.begin():
            session.add_all(
                Author(name=f"author {n}", tags={"n": [n, None]}, books=[Book(title=f"{n}.{m}") for m in range(5)]) for n in range(20)
            )
        with orm.Session(bind) as session:
            found = session.scalars(sa.select(Author).options(orm.selectinload(Author.books)).order_by(Author.id)).all()
            equal([(author.name, author.tags, len(author.books)) for author in found[:2]], [(f"author {n}", {"n": [n, None]}, 5) for n in range(2)])
            session.delete(found[19])
            session.commit()
            equal(session.scalar(sa.select(sa.func.count()).select_from(Book)), 95)

    def savepoints():
        with orm.Session(bind) as session, session.begin():
            session.add(Author(name="kept", tags={}))
            try:
                with session.begin_nested():
                    session.add(Author(name="author 1", tags={}))
                    session.flush()
            except sa.exc.IntegrityError as error:
                equal(error.orig.sqlstate, "23505")
            session.add(Author(name="kept too", tags={}))
        with orm.Session(bind) as session:
            equal(session.scalar(sa.select(sa.func.count()).where(Author.name.like("kept%"))), 2)

    def streams():
        with bind.connect() as connection:
            numbers = connection.execution_options(yield_per=100).execute(sa.text("SELECT generate_series(1, 5000)"))
            equal(sum(number for (number,) in numbers), 12502500)

    def isolation():
        with bind.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
            equal(connection.scalar(sa.text("SHOW transaction_isolation")), "serializable")
        with bind.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            equal(connection.scalar(sa.text("SHOW transaction_isolation")), "read committed")

    def session_settings():
        zones = {}

        def one(number):
            with bind.connect() as connection:
                connection.execute(sa.text(f"SET TIME ZONE 'Etc/GMT+{number}'"))
                connection.commit()
                zones[number] = connection.scalar(sa.text("SHOW TimeZone"))
                connection.rollback()

        for number in range(1, SESSIONS + 1):
            one(number)
        equal(zones, {number: f"Etc/GMT+{number}" for number in range(1, SESSIONS + 1)})

    def reflection():
        found = sa.inspect(bind)
        equal([column["name"] for column in found.get_columns(Book.__tablename__)], ["id", "title", "author_id"])
        equal(found.get_foreign_keys(Book.__tablename__)[0]["referred_table"], Author.__tablename__)

    async def concurrent():
        def one(number):
            with orm.Session(bind) as session:
                session.add(Book(title=f"concurrent {number}", author_id=1))
                session.commit()
                return session.scalar(sa.select(Book.title).where(Book.title == f"concurrent {number}"))

        found = await asyncio.gather(*(asyncio.to_thread(one, number) for number in range(CONCURRENT)))
        equal(sorted(found), sorted(f"concurrent {number}" for number in range(CONCURRENT)))

    for work in (models, savepoints, streams, isolation, session_settings, reflection, concurrent):
        yield f"{name}_{work.__name__}", work


async def asyncpg_pool():
    """asyncpg prepares every statement under a name, and SQLAlchemy keeps them."""
    bind = create_async_engine(f"postgresql+asyncpg://{LOCATION}", connect_args={"ssl": asyncpg_tls(CA)}, pool_size=3, max_overflow=2, pool_timeout=60)

    async def one(number):
        async with bind.connect() as connection:
            for _ in range(3):
                equal(await connection.scalar(sa.text("SELECT CAST(:number AS int) + 1"), {"number": number}), number + 1)

    await asyncio.gather(*(one(number) for number in range(CONCURRENT)))
    await bind.dispose()


async def main():
    report = Report()
    for name, bind in ENGINES.items():
        for title, work in checks_of(name, bind):

            async def run(work=work):
                if asyncio.iscoroutinefunction(work):
                    await work()
                else:
                    await asyncio.to_thread(work)

            await report.check(title, run)
    await report.check("asyncpg_pool", asyncpg_pool)
    Base.metadata.drop_all(ENGINES["null_pool"])
    report.end()


asyncio.run(main())
