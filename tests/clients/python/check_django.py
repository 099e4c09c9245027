"""What programs do with Django's ORM over psycopg: a connection for each use, persistent ones, and cursors on the server outside of transactions."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import django
from django.conf import settings as django_settings

from report import Report, equal, settings
from urls import libpq_tls

URL, CA, CONCURRENT = settings()
PARTS = urlsplit(URL)
# Django knows connections by thread, and keeps them out of event loops.
ONE_THREAD = ThreadPoolExecutor(1)


def database(**more):
    return {
        "ENGINE": "django.db.backends.postgresql", "NAME": PARTS.path[1:], "USER": PARTS.username, "PASSWORD": PARTS.password,
        "HOST": PARTS.hostname, "PORT": PARTS.port, "OPTIONS": {"connect_timeout": 60, **libpq_tls(CA)}, **more,
    }


django_settings.configure(
    DATABASES={
        "default": database(CONN_MAX_AGE=0),
        "persistent": database(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True, TIME_ZONE="Asia/Kathmandu"),
    },
    USE_TZ=True, TIME_ZONE="Europe/Vienna", DEFAULT_AUTO_FIELD="django.db.models.BigAutoField", INSTALLED_APPS=[],
)
django.setup()

from django.db import IntegrityError, connections, models, transaction  # noqa: E402  (settings come first)


class Author(models.Model):
    name = models.CharField(max_length=100, unique=True)
    notes = models.JSONField(default=dict)

    class Meta:
        app_label = "check_django"


class Book(models.Model):
    author = models.ForeignKey(Author, models.CASCADE, related_name="+")
    title = models.CharField(max_length=100)

    class Meta:
        app_label = "check_django"


def schema():
    with connections["default"].schema_editor() as editor:
        for table in ("check_django_book", "check_django_author"):
            editor.execute(f"DROP TABLE IF EXISTS {table}")
        editor.create_model(Author)
        editor.create_model(Book)


def crud():
    Author.objects.bulk_create(Author(name=f"author {n}", notes={"n": [n, None]}) for n in range(20))
    author = Author.objects.get(name="author 3")
    equal(author.notes, {"n": [3, None]})
    Book.objects.bulk_create(Book(author=author, title=f"book {n}") for n in range(3000))
    equal(Book.objects.filter(author__name="author 3", title__endswith="7").update(title="changed"), 300)
    counts = Book.objects.values("author__name").annotate(count=models.Count("pk"))
    equal(list(counts), [{"author__name": "author 3", "count": 3000}])


def savepoints():
    with transaction.atomic():
        Author.objects.create(name="kept")
        try:
            with transaction.atomic():
                Author.objects.create(name="author 1")
        except IntegrityError as error:
            equal(error.__cause__.sqlstate, "23505")
        Author.objects.create(name="kept too")
    equal(Author.objects.filter(name__startswith="kept").count(), 2)


def locked_rows():
    with transaction.atomic(using="persistent"):
        equal(Author.objects.using("persistent").select_for_update().filter(name="author 5").count(), 1)


def server_side_cursors():
    # Outside of a transaction Django declares them WITH HOLD, which is what other poolers have it switch off.
    titles = [book.title for book in Book.objects.order_by("pk").iterator(chunk_size=100)]
    equal(len(titles), 3000)
    both = zip(Book.objects.order_by("pk").iterator(chunk_size=50), Author.objects.order_by("pk").iterator(chunk_size=5))
    equal(sum(1 for _ in both), 22)


def time_zones():
    for name, expected in (("default", "UTC"), ("persistent", "Asia/Kathmandu")) * 3:
        with connections[name].cursor() as cursor:
            cursor.execute("SHOW TimeZone")
            equal(cursor.fetchone(), (expected,))
        connections["default"].close()


def concurrent():
    failures, turns = [], threading.Semaphore(20)

    def one(number):
        with turns:
            try:
                Author.objects.using("persistent").create(name=f"concurrent {number}")
                equal(Author.objects.get(name=f"concurrent {number}").notes, {})
            except Exception as error:  # noqa: BLE001  (every failure is told)
                failures.append(repr(error))
            finally:
                connections.close_all()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(CONCURRENT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(failures, [])
    equal(Author.objects.filter(name__startswith="concurrent").count(), CONCURRENT)


def main():
    report = Report()
    for work in (schema, crud, savepoints, locked_rows, server_side_cursors, time_zones, concurrent):

        async def run(work=work):
            await asyncio.get_running_loop().run_in_executor(ONE_THREAD, work)

        asyncio.run(report.check(work.__name__, run))
    report.end()


main()
