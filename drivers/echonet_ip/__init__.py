"""ECHONET Lite devices of a home over UDP: tables of classes, quirks as data, link, session, driver, tools."""
