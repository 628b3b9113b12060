-- Written by hand after Marten's documentation of its schema (mt_events); not made by Marten.
CREATE SCHEMA shop;
CREATE TABLE shop.mt_events (
    seq_id bigint PRIMARY KEY, id uuid NOT NULL, stream_id uuid, version bigint NOT NULL, data jsonb NOT NULL,
    type varchar(500) NOT NULL, timestamp timestamptz NOT NULL DEFAULT now(), tenant_id varchar DEFAULT '*DEFAULT*',
    mt_dotnet_type varchar, is_archived boolean DEFAULT false
);
INSERT INTO shop.mt_events VALUES (1, '018f0000-0000-7000-8000-000000000001', '00000000-0000-0000-0000-00000000000a', 1, '{"Amount": 12345678901234567890.10}', 'account_opened', '2025-05-01 12:00:00+02', '*DEFAULT*', 'Bank.AccountOpened, Bank', false);
INSERT INTO shop.mt_events VALUES (2, '018f0000-0000-7000-8000-000000000002', '00000000-0000-0000-0000-00000000000b', 1, '{"Amount": 2}', 'account_opened', '2025-05-01 12:00:01.5+02', '*DEFAULT*', 'Bank.AccountOpened, Bank', true);
INSERT INTO shop.mt_events VALUES (4, '018f0000-0000-7000-8000-000000000004', '00000000-0000-0000-0000-00000000000a', 2, '{"Amount": 3}', 'deposited', '2025-05-02 00:00:00+00', '*DEFAULT*', 'Bank.Deposited, Bank', false);
