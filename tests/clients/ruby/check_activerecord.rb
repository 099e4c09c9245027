# What programs do with ActiveRecord over ruby-pg: a pool of kept connections with a cache of prepared statements each, and migrations under an
# advisory lock.

require "active_record"
require_relative "report"

# More than the proxy's server connections.
POOL = 12

ActiveRecord::Base.establish_connection(
  adapter: "postgresql", host: URL.host, port: URL.port, username: URL.user, password: URL.password, database: URL.path[1..],
  connect_timeout: 60, checkout_timeout: 60, pool: POOL, statement_limit: 5, variables: { work_mem: "1234kB" }, **TLS
)
ActiveRecord::Migration.verbose = false

class Author < ActiveRecord::Base
  self.table_name = "check_ar_authors"
  has_many :books
end

class Book < ActiveRecord::Base
  self.table_name = "check_ar_books"
  belongs_to :author
end

class CreateEverything < ActiveRecord::Migration[6.1]
  def change
    create_table :check_ar_authors do |table|
      table.string :name, null: false, index: { unique: true }
      table.jsonb :notes, default: {}
      table.integer :marks, array: true, default: []
    end
    create_table :check_ar_books do |table|
      table.references :author, foreign_key: { to_table: :check_ar_authors }
      table.string :title
      table.integer :lock_version, default: 0
    end
  end
end

# Rails' migrator: a session-level advisory lock on a connection of its own, and the schema's change on another.
class OneMigration < ActiveRecord::MigrationContext
  def migrations
    [ActiveRecord::MigrationProxy.new("AddBorn", 1, __FILE__, "").tap { |proxy| proxy.instance_variable_set(:@migration, AddBorn.new("AddBorn", 1)) }]
  end
end

class AddBorn < ActiveRecord::Migration[6.1]
  def change
    add_column :check_ar_authors, :born, :integer
  end
end

def sql
  ActiveRecord::Base.connection
end

def schema
  %w[check_ar_books check_ar_authors schema_migrations ar_internal_metadata].each { |table| sql.execute("DROP TABLE IF EXISTS #{table}") }
  CreateEverything.new.change
  equal(Author.column_names, %w[id name notes marks])
end

def crud
  Author.insert_all(Array.new(20) { |n| { name: "author #{n}", notes: { n: [n, nil] }, marks: [n, n + 1] } })
  author = Author.find_by!(name: "author 3")
  equal([author.notes, author.marks], [{ "n" => [3, nil] }, [3, 4]])
  Book.insert_all(Array.new(3000) { |n| { author_id: author.id, title: "book #{n}" } })
  equal(author.books.where("title LIKE ?", "%7").update_all(title: "changed"), 300)
  equal(Book.joins(:author).group("check_ar_authors.name").count, { "author 3" => 3000 })
  Author.upsert_all([{ name: "author 4", notes: { changed: true } }], unique_by: :name)
  equal(Author.find_by!(name: "author 4").notes, { "changed" => true })
  author.update!(marks: [])
  equal(author.reload.marks, [])
end

def savepoints
  Author.transaction do
    Author.create!(name: "kept")
    begin
      Author.transaction(requires_new: true) { Author.create!(name: "author 1") }
    rescue ActiveRecord::RecordNotUnique => error
      equal(error.cause.result.error_field(PG::PG_DIAG_SQLSTATE), "23505")
    end
    Author.create!(name: "kept too")
  end
  equal(Author.where("name LIKE 'kept%'").count, 2)
  Author.transaction do
    Author.create!(name: "dropped")
    raise ActiveRecord::Rollback
  end
  equal(Author.exists?(name: "dropped"), false)
end

def locked_rows
  book = Book.first!
  book.with_lock { book.update!(title: "locked") }
  stale = Book.find(book.id)
  book.update!(title: "newer")
  begin
    stale.update!(title: "older")
  rescue ActiveRecord::StaleObjectError
    return equal(Book.find(book.id).title, "newer")
  end
  raise "a stale object was written"
end

def batches
  equal(Book.find_each(batch_size: 100).sum { 1 }, 3000)
  equal(Book.in_batches(of: 500).sum(&:count), 3000)
end

# More texts than the cache may hold: what falls out is deallocated.
def prepared
  20.times { |n| equal(Author.where(name: "author #{n % 3}").limit(1 + n).pluck(:name), ["author #{n % 3}"]) }
  equal(sql.prepared_statements, true)
  kept = sql.select_value("SELECT count(*) FROM pg_prepared_statements").to_i
  raise "#{kept} statements are kept" unless (1..6).cover?(kept)
end

# A cached plan of another shape: ActiveRecord prepares it anew, outside of a transaction.
def after_schema_change
  author = Author.find_by!(name: "author 5")
  sql.execute("ALTER TABLE check_ar_authors ADD COLUMN died integer")
  equal(Author.find(author.id).name, "author 5")
  equal(Author.find_by!(name: "author 5").id, author.id)
  sql.execute("ALTER TABLE check_ar_authors DROP COLUMN died")
  equal(Author.find_by!(name: "author 5").id, author.id)
end

def migrations
  OneMigration.new([], ActiveRecord::SchemaMigration).migrate
  Author.reset_column_information
  equal(Author.column_names.include?("born"), true)
  equal(sql.select_value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 0)
end

def settings
  equal(sql.select_value("SHOW work_mem"), "1234kB")
  sql.execute("SET work_mem = '2345kB'")
  equal(sql.select_value("SHOW work_mem"), "2345kB")
  # DISCARD ALL, and what it set at its beginning.
  sql.reset!
  equal(sql.select_value("SHOW work_mem"), "1234kB")
  equal(Author.find_by!(name: "author 6").marks, [6, 7])
end

def concurrent
  turns = Thread::SizedQueue.new(20)
  threads = Array.new(CONCURRENT) do |number|
    Thread.new do
      turns << number
      ActiveRecord::Base.connection_pool.with_connection do
        Author.create!(name: "concurrent #{number}")
        equal(Author.find_by!(name: "concurrent #{number}").notes, {})
      end
    ensure
      turns.pop
    end
  end
  finish(threads)
  equal(Author.where("name LIKE 'concurrent%'").count, CONCURRENT)
end

run(%i[schema crud savepoints locked_rows batches prepared after_schema_change migrations settings concurrent])
