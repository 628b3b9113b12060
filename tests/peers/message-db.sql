-- Made by message-db 1.3.1 (its own tables and write_message), dumped by pg_dump.
CREATE SCHEMA message_store;
CREATE TABLE message_store.messages (
    global_position bigint NOT NULL,
    "position" bigint NOT NULL,
    "time" timestamp without time zone DEFAULT (now() AT TIME ZONE 'utc'::text) NOT NULL,
    stream_name text NOT NULL,
    type text NOT NULL,
    data jsonb,
    metadata jsonb,
    id uuid DEFAULT gen_random_uuid() NOT NULL
);
CREATE SEQUENCE message_store.messages_global_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE message_store.messages_global_position_seq OWNED BY message_store.messages.global_position;
ALTER TABLE ONLY message_store.messages ALTER COLUMN global_position SET DEFAULT nextval('message_store.messages_global_position_seq'::regclass);
INSERT INTO message_store.messages VALUES (1, 0, '2026-11-27 23:17:37.625664', 'account-0', 'Opened', '{"note": "ä", "amount": 0.50, "accountId": "0"}', '{"correlationStreamName": "teller-1"}', '57223a61-e00b-4f34-a169-519adcb13303');
INSERT INTO message_store.messages VALUES (2, 0, '2026-11-27 23:17:37.660842', 'account-1', 'Opened', '{"note": "ä", "amount": 1.50, "accountId": "1"}', NULL, '6da331b7-7cdd-4595-b530-a5fb13f84326');
INSERT INTO message_store.messages VALUES (3, 0, '2026-11-27 23:17:37.697124', 'account-2', 'Opened', '{"note": "ä", "amount": 2.50, "accountId": "2"}', '{"correlationStreamName": "teller-1"}', '5841b46e-396a-4757-8642-a774723935cb');
INSERT INTO message_store.messages VALUES (4, 1, '2026-11-27 23:17:37.733787', 'account-0', 'Deposited', '{"note": "ä", "amount": 3.50, "accountId": "0"}', NULL, '326aec10-9eeb-4ed0-bfef-cbeac3924407');
INSERT INTO message_store.messages VALUES (5, 1, '2026-11-27 23:17:37.780583', 'account-1', 'Deposited', '{"note": "ä", "amount": 4.50, "accountId": "1"}', '{"correlationStreamName": "teller-1"}', 'efd6e595-ac04-4679-a8e3-602801581ea9');
INSERT INTO message_store.messages VALUES (6, 1, '2026-11-27 23:17:37.829844', 'account-2', 'Deposited', '{"note": "ä", "amount": 5.50, "accountId": "2"}', NULL, 'ff931044-f0aa-4bd7-bd26-6c4069fae146');
INSERT INTO message_store.messages VALUES (7, 2, '2026-11-27 23:17:37.856897', 'account-0', 'Deposited', '{"note": "ä", "amount": 6.50, "accountId": "0"}', '{"correlationStreamName": "teller-1"}', '4ddb94c6-c2b1-4724-806b-673e505ce20f');
INSERT INTO message_store.messages VALUES (8, 2, '2026-11-27 23:17:37.885813', 'account-1', 'Deposited', '{"note": "ä", "amount": 7.50, "accountId": "1"}', NULL, '2d96efbe-b2cc-4b58-b98b-b468d7e2bd42');
INSERT INTO message_store.messages VALUES (9, 2, '2026-11-27 23:17:37.923939', 'account-2', 'Deposited', '{"note": "ä", "amount": 8.50, "accountId": "2"}', '{"correlationStreamName": "teller-1"}', 'a0362002-c2f0-4805-b407-6ca457e0013a');
INSERT INTO message_store.messages VALUES (10, 3, '2026-11-27 23:17:37.985312', 'account-0', 'Deposited', '{"note": "ä", "amount": 9.50, "accountId": "0"}', NULL, '935a9f94-9b9b-4a10-9af3-f49c4ed780db');
INSERT INTO message_store.messages VALUES (12, 3, '2026-11-27 23:17:38.077608', 'account-2', 'Deposited', '{"note": "ä", "amount": 11.50, "accountId": "2"}', NULL, '1b3142bb-ff75-45bb-92e0-0746e7cac3db');
SELECT pg_catalog.setval('message_store.messages_global_position_seq', 12, true);
ALTER TABLE ONLY message_store.messages
    ADD CONSTRAINT messages_pkey PRIMARY KEY (global_position);
